"""Which versions a vacuum has taken something from, by what is missing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .. import StorageError
from .files import translated
from .manifest import Manifest
from .segment_layout import SEGMENTS

PASSAGES: Final = "passages"
"""The directory of the catalog, relative to the memory."""


def vacuumed(memory: Path, manifests: Iterable[Manifest], newest: Manifest) -> dict[int, str]:
    """Version -> the first catalog file or segment that is gone, for each of `manifests` that lost one.

    What the newest version names is never vacuumed: if that is missing it is damage, and found as such. Costs two
    listings, whatever the number of versions.
    """
    files = _names(memory / PASSAGES) | {file.name for file in newest.files}
    segments = _names(memory / SEGMENTS) | set(newest.segments)
    found: dict[int, str] = {}
    for manifest in manifests:
        gone = [f"{PASSAGES}/{file.name}" for file in manifest.files if file.name not in files]
        gone += [f"{SEGMENTS}/{name}" for name in sorted(manifest.segments) if name not in segments]
        if gone:
            found[manifest.version] = gone[0]
    return found


def _names(directory: Path) -> set[str]:
    with translated(directory, lambda text: StorageError(f"{directory}: {text}")):
        return set(os.listdir(directory)) if directory.exists() else set()
