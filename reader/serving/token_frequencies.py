"""In how many passages of a version each token occurs: what late interaction weighs a question's tokens by.

Counted once from the token ids that are stored with the texts, and kept: beside the version's other indexes, in the
user's cache directory where the memory cannot be written or lies in a bucket, whose copy then serves other machines.
The file says of which content it is and has a digest of itself; one of anything else is counted again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ... import DamageError, StorageError
from ...encoders.compilation import cache_directory
from ...progress import Progress, Quiet
from ...storage.memory import Memory
from ...storage.passage import SHARD_ROWS
from ...storage.stores import LocalStore, Store
from ...storage.version_indexes import INDEXES

NAME: Final = "token-frequencies"
_MAGIC: Final = b"GLMRTKF1"
_HEAD: Final = struct.Struct("<8s32s32sQ")  # magic, digests of the rest and of what it is of, passages
_LARGEST = 1 << 28
_SPAN: Final = 1 << 20  # positions looked up together
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TokenFrequencies:
    """How many of `passages` have each token: `counts` uint32 [V] by token id; ids from V on are in none."""

    counts: npt.NDArray[np.uint32]
    passages: int

    def weights(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """The inverse document frequencies of `tokens` int32 [n], float32 [n]: log((N + 1) / (count + 1))."""
        known = tokens < len(self.counts)
        counts = np.zeros(len(tokens))
        counts[known] = self.counts[tokens[known]]
        return np.log((self.passages + 1) / (counts + 1)).astype(np.float32)


def open_token_frequencies(memory: Memory, *, progress: Progress | None = None) -> TokenFrequencies:
    """The token frequencies of the version that `memory` is pinned to.

    Counted first if need be, of which `progress` is told as a stage `count tokens`, and kept where that is possible.
    Raises DamageError if the memory's texts cannot be read.
    """
    home, cached = _places(memory)
    places = [cached, home] if memory.store.remote else [home, cached]
    for store, key in places:
        found = _read(store, key, memory)
        if found is not None:
            if memory.store.remote and store is memory.store:
                _put(*cached, _content(memory, found))
            return found
    found = count_tokens(memory, progress=progress)
    content = _content(memory, found)
    kept = [_put(store, key, content) for store, key in ([home, cached] if memory.store.remote else [home])]
    if not any(kept):
        _put(*cached, content)
    return found


def count_tokens(memory: Memory, *, progress: Progress | None = None) -> TokenFrequencies:
    """Counts them, a text shard at a time; rows that are not of this version do not count."""
    progress = progress or Quiet()
    progress.stage("count tokens", total=memory.passages, unit="passages")
    totals = np.zeros(0, np.uint32)
    done = 0
    for reader, live in zip(memory.readers, _live(memory), strict=True):
        for shard in range(reader.shape.shards):
            rows = live[shard * SHARD_ROWS : (shard + 1) * SHARD_ROWS]
            if not rows.any():
                continue
            edges, tokens = reader.open_text(shard).tokens()
            if len(edges) != len(rows) + 1:
                raise DamageError(f"segment {reader.segment}, text shard {shard}: has {len(edges) - 1} rows")
            owners = np.repeat(np.arange(len(rows), dtype=np.uint64), np.diff(edges))
            counted = rows[owners.astype(np.intp)]
            pairs = np.unique(owners[counted] << np.uint64(32) | tokens[counted])
            found = np.bincount((pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)).astype(np.uint32)
            if len(found) > len(totals):
                totals, found = found, totals
            totals[: len(found)] += found
            done += int(np.count_nonzero(rows))
            progress.at(done)
    progress.done()
    return TokenFrequencies(totals, memory.passages)


def _live(memory: Memory) -> list[npt.NDArray[np.bool_]]:
    """For each of the memory's segments which of its rows are of this version, bool [rows]."""
    live = [np.zeros(reader.shape.rows, bool) for reader in memory.readers]
    for start in range(0, memory.passages, _SPAN):
        segments, rows = memory.rows(np.arange(start, min(start + _SPAN, memory.passages)))
        for segment in np.unique(segments).tolist():
            live[segment][rows[segments == segment]] = True
    return live


def _places(memory: Memory) -> tuple[tuple[Store, str], tuple[Store, str]]:
    """Where the file may stand: beside the version's other indexes, and in the user's cache."""
    name = memory.manifest.content_sha256
    return (memory.store, f"{memory.index_key}/{NAME}"), (LocalStore(cache_directory() / INDEXES), f"{name}/{NAME}")


def _of(memory: Memory) -> bytes:
    return hashlib.sha256(f"{memory.manifest.identity_sha256} {memory.manifest.content_sha256}".encode()).digest()


def _content(memory: Memory, frequencies: TokenFrequencies) -> bytes:
    of, body = _of(memory), frequencies.counts.astype("<u4").tobytes()
    digest = hashlib.sha256(of + struct.pack("<Q", memory.passages) + body).digest()
    return _HEAD.pack(_MAGIC, digest, of, memory.passages) + body


def _read(store: Store, key: str, memory: Memory) -> TokenFrequencies | None:
    """The frequencies at `key`, None where none are, or not of this memory and version, or not whole."""
    try:
        raw = store.read(key, most=_LARGEST)
    except (OSError, StorageError, DamageError):
        return None
    if len(raw) < _HEAD.size or len(raw) % 4 != _HEAD.size % 4:
        return None
    magic, digest, of, passages = _HEAD.unpack_from(raw)
    known = (magic, of, passages) == (_MAGIC, _of(memory), memory.passages)
    if not known or hashlib.sha256(raw[40:]).digest() != digest:
        return None
    return TokenFrequencies(np.frombuffer(raw, "<u4", offset=_HEAD.size).astype(np.uint32), passages)


def _put(store: Store, key: str, content: Any) -> bool:
    with contextlib.suppress(OSError, StorageError, DamageError):
        store.put(key, content)
        return True
    _log.info("%s: cannot be written", store.name(key))
    return False
