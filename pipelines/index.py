"""The first-stage index of a memory: opened where it stands, built where it does not, never stale.

An index belongs to one version of one memory and says so: its manifest has the digest of the memory's identity and of
the version's content, so an index of anything else is rebuilt, not used. It lies beside the version's other indexes, or
in the user's cache directory where the memory cannot be written, or as a last resort in a temporary directory.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import DamageError, MismatchError, StorageError, UsageError
from ..encoders.compilation import cache_directory
from ..reader.retrieval import Bm25Index, build_index
from ..storage.memory import Memory
from .prefetch import prefetched
from .progress import Progress, Quiet

DIRECTORY = "bm25"
_READ_AT_ONCE = 4096


def index_manifest(memory: Memory) -> dict[str, str]:
    """What an index of `memory`, at the version it is opened at, is an index of."""
    return {"memory": memory.manifest.identity_sha256, "content": memory.manifest.content_sha256}


def check_passages(memory: Memory) -> None:
    """UsageError unless the version that `memory` is pinned to has passages to find."""
    if not memory.passages:
        raise UsageError(
            f"{memory.directory}: version {memory.version} holds no passages; encode a corpus into it, or choose "
            "another version"
        )


def open_index(
    memory: Memory, *, progress: Progress | None = None, rebuild: bool = False, verify: bool = False
) -> Bm25Index:
    """The BM25 index of the version that `memory` is pinned to, built first if need be.

    Args:
        memory: an open memory.
        progress: hears of the building, as a stage named `index`.
        rebuild: build it whatever is there.
        verify: read an index that is there whole and build it anew if a byte differs; else only sizes are compared.

    Raises UsageError for a version without passages, DamageError if the memory's texts cannot be read, StorageError if
    an index can be written nowhere.
    """
    check_passages(memory)
    places = [memory.index_directory / DIRECTORY, cache_directory() / "indexes" / _key(memory) / DIRECTORY]
    manifest = index_manifest(memory)
    if not rebuild:
        for place in places:
            try:
                found = Bm25Index.open(place, manifest)
                if not verify or not found.verify():
                    return found
            except (MismatchError, DamageError, StorageError):
                continue  # absent, stale, damaged or unreadable: all the same, it can be made again
    refused: StorageError | None = None
    for place in places:
        try:
            _build(memory, place, progress or Quiet())
            return Bm25Index.open(place, manifest)
        except StorageError as error:
            refused = refused or error
    return _temporary(memory, progress or Quiet(), refused)


def _key(memory: Memory) -> str:
    # Passages are equal whenever the content is, but the identity is part of what the manifest promises.
    manifest = memory.manifest
    return f"{manifest.identity_sha256[:16]}-{manifest.content_sha256[:32]}"


def _temporary(memory: Memory, progress: Progress, refused: StorageError | None) -> Bm25Index:
    """An index that lives as long as the object: nothing but the temporary directory can be written."""
    try:
        home = tempfile.mkdtemp(prefix="glimmer-index-")
    except OSError:
        raise refused or StorageError("no directory for the index can be written") from None
    try:
        place = Path(home) / DIRECTORY
        _build(memory, place, progress)
        index = Bm25Index.open(place, index_manifest(memory))
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    weakref.finalize(index, shutil.rmtree, home, ignore_errors=True)
    return index


def _build(memory: Memory, place: Path, progress: Progress) -> None:
    progress.stage("index", total=memory.passages, unit="passages")
    with prefetched(_texts(memory), ahead=2) as batches:
        passages = (passage for batch in batches for passage in batch)
        build_index(place, passages, index_manifest(memory), progress.at)
    progress.done()


def _texts(memory: Memory) -> Iterator[list[tuple[str, str, str]]]:
    """(id, title, text) in the order of ids, which is what positions count; each batch is read in the payload's order.

    Indexing in the payload's order would read faster from a cold disk, but then two memories of equal content,
    refreshed and rebuilt, could rank passages of nearly equal scores differently.
    """
    for start in range(0, memory.passages, _READ_AT_ONCE):
        positions = np.arange(start, min(start + _READ_AT_ONCE, memory.passages))
        yield [(passage.passage_id, passage.title, passage.text) for passage in memory.texts(positions)]
