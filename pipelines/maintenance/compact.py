"""Compact: rows that still live are copied out of sparse segments into one new segment, and nothing is encoded again.

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

from ... import ConflictError, DamageError, UsageError
from ...progress import Progress, Quiet
from ...reader.serving.retrieval_index import DIRECTORY, open_index
from ...storage.catalog_files import CATALOG_SCHEMA, read_catalog_file
from ...storage.files import sha256_file
from ...storage.ledger import Ledger
from ...storage.manifest import Manifest
from ...storage.memory import Memory, commit
from ...storage.passage import SHARD_ROWS
from ...storage.removal import remove_tree
from ...storage.segment_layout import codes_name, lengths_name, text_name
from ...storage.segment_writer import SealedSegment, SegmentWriter
from ..defaults import DEFAULT_DEAD_SHARE
from ..encoding.encoding_job import job_id, segment_id, timed

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

    memory: Path
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
    memory: str | Path,
    dead_share: float = DEFAULT_DEAD_SHARE,
    index: bool | None = None,
    progress: Progress | None = None,
) -> CompactResult:
    """Merges the sparse segments of a memory into one, or resumes an interrupted compaction.

    Args:
        memory: the memory's directory.
        dead_share: a segment is sparse if more than this share of its rows is dead; 0 takes every dead row out.
        index: build the new version's first-stage index; None builds it if the base version has one.
        progress: hears how the job goes.

    Raises UsageError where there is no memory, DamageError for a shard that is not what was written (nothing damaged
    is ever copied), ConflictError when another job changed the memory first or runs this one, StorageError when the
    file system refuses. The newest version stays what it was then.
    """
    if not 0 <= dead_share < 1:
        raise UsageError(f"dead_share must be at least 0 and less than 1, not {dead_share}")
    progress = progress or Quiet()
    base = Memory.open(memory)
    live = base.manifest.live_rows
    job = _Job(base, [name for name, entry in base.segments.items() if live[name] < entry.rows * (1 - dead_share)])
    seconds: dict[str, float] = {}
    manifest = base.manifest
    if job.sparse:
        manifest = job.finish(progress, seconds)
        if index or (index is None and (base.index_directory / DIRECTORY).exists()):
            with timed(seconds, "index"):
                open_index(Memory.open(memory, manifest.version), progress=progress)
    entries = [base.segments[name] for name in job.sparse]
    made = manifest.segments[job.writer.segment] if job.sparse else None
    return CompactResult(
        memory=base.directory,
        job=job.name,
        version=manifest.version,
        base=base.version,
        merged=tuple(job.sparse),
        segment=job.writer.segment if made else None,
        rows=made.rows if made else 0,
        dead_rows=sum(entry.rows for entry in entries) - (made.rows if made else 0),
        bytes_written=made.bytes if made else 0,
        bytes_before=sum(entry.bytes for entry in entries),
        seconds=seconds,
    )


def merge(base: Memory, segments: Collection[str], progress: Progress) -> Manifest:
    """Copies all live rows of `segments`, at least one, into one new segment and commits; raises as `compact` does."""
    return _Job(base, segments).finish(progress, {})


class _Job:
    """One compaction: what is to be merged, and its name."""

    def __init__(self, base: Memory, segments: Collection[str]) -> None:
        self.base = base
        self.sparse = sorted(segments)
        depends_on = {
            "base": base.version,
            "content": base.manifest.content_sha256,
            "identity": base.manifest.identity_sha256,
            "segments": self.sparse,
        }
        self.name = job_id("compact", depends_on)
        self.ledger = Ledger(base.directory, self.name)
        self.writer = SegmentWriter(base.directory, segment_id(self.name))

    def finish(self, progress: Progress, seconds: dict[str, float]) -> Manifest:
        """Runs the job to its end, whichever process does it."""
        with self.ledger.lock():
            manifest = self._committed() or self._run(progress, seconds)
            self.ledger.clear()
        return manifest

    def _committed(self) -> Manifest | None:
        """This job's commit, if another process made it before this one got the lock."""
        catalog = self.base.catalog
        for version in range(catalog.latest_version(), self.base.version, -1):
            if (found := catalog.read_manifest(version)).job == self.name:
                return found
        return None

    def _run(self, progress: Progress, seconds: dict[str, float]) -> Manifest:
        """Copies what the ledger does not list yet, seals the segment and commits."""
        moves = _Moves(self.base, self.sparse)
        if self.ledger.read_plan() is None:
            remove_tree(self.writer.directory, within=self.base.directory)  # of a job whose ledger is gone
            self.ledger.write_plan({"rows": moves.rows, "segments": self.sparse})
        self.writer.create_arrays(moves.rows, self.base.window, self.base.codec.code_bytes)
        with timed(seconds, "copy"):
            self._copy(moves, progress)
            sealed = self.writer.seal(self.ledger.records().values())
        with timed(seconds, "commit"):
            return self._commit(moves, sealed)

    def _copy(self, moves: _Moves, progress: Progress) -> None:
        done = self.ledger.records()
        left = [shard for shard in range(-(-moves.rows // SHARD_ROWS)) if shard not in done]
        begun = self.ledger.progress().rows
        progress.stage("copy", total=moves.rows, unit="passages", start=begun)
        check = _SourceCheck(self.base)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="copy") as pool:
            waiting: deque[Future[int]] = deque()
            try:
                for shard in left:
                    if len(waiting) == _AT_ONCE:
                        begun += waiting.popleft().result()
                        progress.at(begun)
                    waiting.append(pool.submit(self._copy_shard, shard, moves, check))
                while waiting:
                    begun += waiting.popleft().result()
                    progress.at(begun)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        progress.done()

    def _copy_shard(self, shard: int, moves: _Moves, check: Callable[[int, int], None]) -> int:
        positions = moves.positions[shard * SHARD_ROWS : (shard + 1) * SHARD_ROWS]
        segment, row = self.base.rows(positions)
        for place in sorted({*zip(segment.tolist(), (row // SHARD_ROWS).tolist(), strict=True)}):
            check(*place)
        self.writer.write_text(shard, self.base.texts(positions))
        codes, lengths = self.base.fetch(positions)
        self.ledger.record(self.writer.write_shard(shard, codes, lengths))
        return len(positions)

    def _commit(self, moves: _Moves, sealed: SealedSegment) -> Manifest:
        replaced = [file for file in self.base.manifest.files if set(self.sparse) & set(file.segments)]

        def rows() -> Iterator[pa.RecordBatch]:
            for file in replaced:
                for batch in read_catalog_file(self.base.catalog.directory, file):
                    yield moves.moved(batch, sealed.segment)

        try:
            return commit(
                self.base.directory,
                base=self.base.version,
                job=self.name,
                operation="compact",
                add=rows(),
                remove=[file.name for file in replaced],
                segments=[sealed],
                rows_added=0,
                rows_removed=0,
                details={"merged": self.sparse, "bytes_written": sealed.bytes},
            )
        except ConflictError:
            # No later job can use it: its id follows from the base.
            remove_tree(self.writer.directory, within=self.base.directory)
            self.ledger.clear()
            raise


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
            path = reader.directory / name
            try:
                whole = sha256_file(path)[0] == sha256
            except FileNotFoundError:
                whole = False
            if not whole:
                raise DamageError(
                    f"{path}: not what was written, so it is not copied; run `glimmer repair {self._base.directory}`"
                )
        with self._lock:
            self._done.add((segment, shard))
