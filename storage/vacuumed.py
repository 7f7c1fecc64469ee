"""Which versions a vacuum has taken something from, by what is missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .manifest import Manifest
from .segment_layout import SEGMENTS
from .stores import Store

PASSAGES: Final = "passages"
"""The directory of the catalog, relative to the memory."""


def vacuumed(store: Store, manifests: Iterable[Manifest], newest: Manifest) -> dict[int, str]:
    """Version -> the first catalog file or segment that is gone, for each of `manifests` that lost one.

    What the newest version names is never vacuumed: if that is missing it is damage, and found as such. Costs two
    listings, whatever the number of versions.
    """
    files = set(store.names(PASSAGES)) | {file.name for file in newest.files}
    segments = set(store.names(SEGMENTS)) | set(newest.segments)
    found: dict[int, str] = {}
    for manifest in manifests:
        gone = [f"{PASSAGES}/{file.name}" for file in manifest.files if file.name not in files]
        gone += [f"{SEGMENTS}/{name}" for name in sorted(manifest.segments) if name not in segments]
        if gone:
            found[manifest.version] = gone[0]
    return found
