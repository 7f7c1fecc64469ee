"""Compact: live rows are copied out of sparse segments into one new segment, and nothing is encoded again.

Every refresh leaves dead rows in older segments: they cost disk until the segment that holds them has no live row and
a vacuum deletes it. A compaction copies the live rows of every segment with too many dead ones, codes, lengths and
texts, byte for byte and checked against the recorded digests, and makes one commit that points to the copies. It holds
a few shards in memory. The job's id follows from the base version's content and what is to be merged: the same command
resumes it. Passages, their positions and their codes are what they were; readers of older versions keep
the old segments until these are vacuumed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ... import DamageError, UsageError
from ...progress import Progress
from ...reader.serving.retrieval_index import DIRECTORY, open_index
from ...storage.catalog_files import CATALOG_SCHEMA, read_catalog_file
from ...storage.manifest import Manifest
from ...storage.memory import Memory
from ...storage.passage import SHARD_ROWS
from ...storage.segment_layout import codes_name, lengths_name, text_name
from ...storage.segment_writer import SealedSegment
from ...storage.stores import Place
from ..defaults import DEFAULT_DEAD_SHARE
from ..jobs import Job

_AT_ONCE: Final = 2  # shards held in memory: one is compressed and written while the next is read
_SPAN: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class CompactResult:
    """What a compaction did.

    Attributes:
        memory, job: where, by which job.
        version: the newest version now; `base` when there was nothing to do.
        base: the version it started from.
        merged: the sparse segments, by id; empty when there was nothing to do.
        segment: the segment they were merged into, None when there was nothing to do.
        rows: live rows copied.
        dead_rows: rows left behind.
        bytes_written: the new segment's bytes.
        bytes_before: bytes of the merged segments, which a vacuum can free once no kept version names them.
        seconds: wall time of each stage, in seconds.
    """

    memory: Path | str
    job: str
    version: int
    base: int
    merged: tuple[str, ...]
    segment: str | None
    rows: int
    dead_rows: int
    bytes_written: int
    bytes_before: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def nothing_to_do(self) -> bool:
        """Whether no segment was sparse enough."""
        return not self.merged

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        return asdict(self) | {"memory": str(self.memory), "nothing_to_do": self.nothing_to_do}


def compact(
    *,
    memory: Place,
    dead_share: float = DEFAULT_DEAD_SHARE,
    index: bool | None = None,
    progress: Progress | None = None,
) -> CompactResult:
    """Merges the sparse segments of a memory into one, or resumes an interrupted compaction.

    Args:
        memory: the memory's directory.
        dead_share: a segment is sparse if more than this share of its rows is dead; 0 takes every dead row out.
        index: build the new version's first-stage index; None builds it if the base version has one.
        progress: progress callback.

    Raises:
        UsageError: there is no memory.
        DamageError: a shard is not what was written; nothing damaged is ever copied.
        ConflictError: another job changed the memory first or runs this one.
        StorageError: the file system refuses.

    The newest version stays what it was then.

    Examples:
        >>> glimmer.compact(memory="wiki.memory", dead_share=0.9).nothing_to_do
        True
    """
    if not 0 <= dead_share < 1:
        raise UsageError(f"dead_share must be at least 0 and less than 1, not {dead_share}")
    base = Memory.open(memory)
    live = base.manifest.live_rows
    sparse = [name for name, entry in base.segments.items() if live[name] < entry.rows * (1 - dead_share)]
    merging = _Merge(base, sparse, progress)
    job, manifest, made = merging.job, base.manifest, None
    if sparse:
        manifest = merging.run()
        made = manifest.segments[job.segment.segment]
        if index or (index is None and base.store.exists(f"{base.index_key}/{DIRECTORY}")):
            with job.timed("index"):
                open_index(Memory.open(base.store, manifest.version), progress=progress)
    entries = [base.segments[name] for name in sorted(sparse)]
    return CompactResult(
        memory=base.location,
        job=job.name,
        version=manifest.version,
        base=base.version,
        merged=tuple(sorted(sparse)),
        segment=job.segment.segment if made else None,
        rows=made.rows if made else 0,
        dead_rows=sum(entry.rows for entry in entries) - (made.rows if made else 0),
        bytes_written=made.bytes if made else 0,
        bytes_before=sum(entry.bytes for entry in entries),
        seconds=job.seconds,
    )


def merge(base: Memory, segments: Collection[str], progress: Progress | None) -> Manifest:
    """Copies all live rows of `segments`, at least one, into one new segment and commits; raises as `compact` does."""
    return _Merge(base, segments, progress).run()


class _Merge:
    """One compaction: what is to be merged, and its job."""

    def __init__(self, base: Memory, segments: Collection[str], progress: Progress | None) -> None:
        self.base = base
        self.sparse = sorted(segments)
        depends_on = {
            "base": base.version,
            "content": base.manifest.content_sha256,
            "identity": base.manifest.identity_sha256,
            "segments": self.sparse,
        }
        self.job = Job(base.store, "compact", depends_on, base=base.version, progress=progress)

    def run(self) -> Manifest:
        """Runs the job to its end, whichever process does it."""
        return self.job.run(self._work)

    def _work(self) -> Manifest:
        moves = _Moves(self.base, self.sparse)
        self.job.plan(lambda: {"rows": moves.rows, "segments": self.sparse})
        sealed = self.job.write_segment(
            "copy",
            lambda shards: self._copy(shards, moves),
            rows=moves.rows,
            window=self.base.window,
            code_bytes=self.base.codec.code_bytes,
        )
        return self._commit(moves, sealed)

    def _copy(self, shards: list[int], moves: _Moves) -> None:
        progress, copied = self.job.progress, self.job.resumed
        check = _SourceCheck(self.base)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="copy") as pool:
            waiting: deque[Future[int]] = deque()
            try:
                for shard in shards:
                    if len(waiting) == _AT_ONCE:
                        copied += waiting.popleft().result()
                        progress.at(copied)
                    waiting.append(pool.submit(self._copy_shard, shard, moves, check))
                while waiting:
                    copied += waiting.popleft().result()
                    progress.at(copied)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _copy_shard(self, shard: int, moves: _Moves, check: Callable[[int, int], None]) -> int:
        positions = moves.positions[shard * SHARD_ROWS : (shard + 1) * SHARD_ROWS]
        segment, row = self.base.rows(positions)
        for place in sorted({*zip(segment.tolist(), (row // SHARD_ROWS).tolist(), strict=True)}):
            check(*place)
        self.job.segment.write_text(shard, self.base.texts(positions))
        self.job.record_shard(shard, *self.base.fetch(positions))
        return len(positions)

    def _commit(self, moves: _Moves, sealed: SealedSegment) -> Manifest:
        replaced = [file for file in self.base.manifest.files if set(self.sparse) & set(file.segments)]

        def rows() -> Iterator[pa.RecordBatch]:
            for file in replaced:
                for batch in read_catalog_file(self.base.store, file):
                    yield moves.moved(batch, sealed.segment)

        return self.job.commit(
            add=rows(),
            remove=[file.name for file in replaced],
            segment=sealed,
            rows_added=0,
            rows_removed=0,
            details={"merged": self.sparse, "bytes_written": sealed.bytes},
        )


class _Moves:
    """Which passages move, in the order of their rows, and so where each goes. Twelve bytes a passage that moves."""

    def __init__(self, base: Memory, sparse: list[str]) -> None:
        self._base = base
        names = [reader.segment for reader in base.readers]
        wanted = np.isin(names, sparse)
        self._index = {name: number for number, name in enumerate(names)}
        rows = np.array([reader.shape.rows for reader in base.readers], np.int64)
        self._firsts = np.cumsum(rows) - rows
        positions, locations = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
        for start in range(0, base.passages, _SPAN):
            span = np.arange(start, min(start + _SPAN, base.passages))
            segment, row = base.rows(span)
            moving = wanted[segment]
            positions.append(span[moving].astype(np.uint32))
            locations.append(self._firsts[segment[moving]] + row[moving])
        self._locations: npt.NDArray[np.int64] = np.concatenate(locations)
        order = np.argsort(self._locations)
        self._locations = self._locations[order]
        self.positions: npt.NDArray[np.uint32] = np.concatenate(positions)[order]
        self.rows = len(self.positions)

    def moved(self, batch: pa.RecordBatch, segment: str) -> pa.RecordBatch:
        """Catalog rows with the new place of those that move."""
        names = batch.column("segment").dictionary_encode()
        which = np.array([self._index[name] for name in names.dictionary.to_pylist()], np.int64)
        location = self._firsts[which[names.indices.to_numpy()]] + batch.column("row").to_numpy()
        target = np.searchsorted(self._locations, location)
        moves = (target < self.rows) & (self._locations[np.minimum(target, self.rows - 1)] == location)
        columns = list(batch.columns)
        old = batch.column("segment").to_numpy(zero_copy_only=False)
        columns[CATALOG_SCHEMA.get_field_index("segment")] = pa.array(np.where(moves, segment, old), pa.string())
        row = np.where(moves, target, batch.column("row").to_numpy())
        columns[CATALOG_SCHEMA.get_field_index("row")] = pa.array(row, pa.int32())
        return pa.RecordBatch.from_arrays(columns, schema=CATALOG_SCHEMA)


class _SourceCheck:
    """Compares a shard's files with their recorded SHA-256 before anything of it is copied; once a shard."""

    def __init__(self, base: Memory) -> None:
        self._base = base
        self._done: set[tuple[int, int]] = set()
        self._lock = threading.Lock()

    def __call__(self, segment: int, shard: int) -> None:
        with self._lock:
            if (segment, shard) in self._done:
                return
        reader = self._base.readers[segment]
        record = reader.records[shard]
        for name, sha256 in (
            (codes_name(shard), record.codes_sha256),
            (lengths_name(shard), record.lengths_sha256),
            (text_name(shard), record.text_sha256),
        ):
            key = f"{reader.key}/{name}"
            try:
                whole = reader.store.sha256(key)[0] == sha256
            except FileNotFoundError:
                whole = False
            if not whole:
                raise DamageError(
                    f"{reader.store.name(key)}: not what was written, so it is not copied; "
                    f"run `glimmer repair {self._base.location}`"
                )
        with self._lock:
            self._done.add((segment, shard))
