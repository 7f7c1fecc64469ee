"""The skeleton of every job that makes a version: encode, refresh, compact, repair.

    id          a hash of all that the result depends on, so the same command finds its own work again
    committed?  the version this job made before, or another process just now, is the result
    lock        one process runs a job; another is refused
    base        the memory is still at the version that the job started from
    plan        made once and kept in the ledger; one that is refused leaves nothing behind
    segment     each shard is in the ledger once it is written; a resumed job writes the others
    commit      one version; a job that was overtaken deletes what it made, which no later job can use
    clean up    the ledger goes: the job is in the history now

A kind of job is a function that calls `plan`, `write_segment` and `commit` from the `work` it hands to `Job.run`; what
it does not need it leaves out. Until the commit no reader sees anything, and whatever ends the process, the same
command ends with what an undisturbed one makes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .. import ConflictError, InputError, MismatchError, UsageError
from ..progress import Progress, Quiet
from ..storage.catalog import Catalog
from ..storage.ledger import JOBS, Ledger
from ..storage.manifest import Manifest
from ..storage.memory import commit
from ..storage.passage import SHARD_ROWS
from ..storage.segment_layout import SEGMENTS
from ..storage.segment_writer import SealedSegment, SegmentWriter
from ..storage.stores import Place, open_store
from ..wording import counted
from .corpus.rejects import reject_file, reject_place

if TYPE_CHECKING:
    from .engines.worker_rates import WorkerRate


def canonical_sha256(value: Any) -> str:
    """SHA-256, in hex, of a JSON-able value, the same whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def job_id(kind: str, depends_on: Mapping[str, Any]) -> str:
    """`<kind>-<16 hex>`: the same for the same JSON-able dependencies."""
    return f"{kind}-{canonical_sha256(depends_on)[:16]}"


def segment_id(job: str) -> str:
    """The UUID of the segment that `job` writes; a resumed job finds the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"glimmer:{job}"))


class Job:
    """One job on one memory.

    Args:
        memory: where the memory is; an encode job makes it.
        kind: names the job's id and the operation in the history.
        depends_on: all that the result depends on, JSON-able; the base version's content too, where there is one.
        base: the version it starts from; 0 for a memory that is to be made.
        progress: progress callback.

    Attributes:
        store: where the memory is.
        name: the job's id.
        segment: writes the one segment that the job may make.
        seconds: wall time of the stages that ended, in seconds.
        resumed: rows that an earlier, interrupted run had written.
        nothing_to_do: `run` found the job's commit in the history.
        workers: what each worker process wrote of the segment; empty where this process did it all.
        code_bytes_written: bytes of codes in the segment, once it is sealed.
    """

    def __init__(
        self,
        memory: Place,
        kind: str,
        depends_on: Mapping[str, Any],
        *,
        base: int,
        progress: Progress | None = None,
    ) -> None:
        self.store, self.kind, self.base = open_store(memory), kind, base
        self.progress = progress or Quiet()
        self.name = job_id(kind, depends_on)
        self.ledger = Ledger(self.store, self.name)
        self.segment = SegmentWriter(self.store, segment_id(self.name))
        self.seconds: dict[str, float] = {}
        self.resumed = 0
        self.nothing_to_do = False
        self.workers: list[WorkerRate] = []
        self.code_bytes_written = 0
        self._catalog = Catalog(self.store)

    @property
    def rejects(self) -> Path | str | None:
        """The dead-letter file of records that the job could not use; None if there is none."""
        return reject_place(self.store, self._rejects)

    def reject_file(self) -> AbstractContextManager[Path]:
        """The path to write the dead-letter file to, for the time of the block."""
        return reject_file(self.store, self._rejects)

    @property
    def _rejects(self) -> str:
        return f"{JOBS}/{self.name}.rejected.jsonl"

    def committed(self) -> Manifest | None:
        """The version that this job made, whichever process did it; None if it is still to do."""
        if not self._catalog.exists:
            return None
        for version in range(self._catalog.latest_version(), self.base, -1):
            if (found := self._catalog.read_manifest(version)).job == self.name:
                return found
        return None

    def run(self, work: Callable[[], Manifest]) -> Manifest:
        """The job's version: found in the history, or made by `work` while this process holds the lock.

        `work` may return the base's manifest instead, if there is nothing to change. Raises ConflictError when another
        process runs the job or another job has made a version since; what this one made is deleted then.
        """
        manifest = self.committed()  # before the lock, which writes to the memory
        self.nothing_to_do = manifest is not None
        if manifest is None:
            with self.ledger.lock():
                manifest = self.committed()  # another process may have ended it meanwhile
                self.nothing_to_do = manifest is not None
                if manifest is None:
                    self._check_base()
                    manifest = work()
                self.ledger.clear()
        else:
            self.ledger.clear()  # a process was killed between its commit and this
        return manifest

    def plan(self, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The job's plan, JSON-able, with `rows` of the segment: found in the ledger, or made now and written there.

        A plan that `make` refuses, since its inputs will not do, leaves nothing behind, not even the directories of a
        memory that was to be made. What was planned before a store or a worker failed is kept for a next try, and a
        plan that was written whatever happens later.
        """
        found = self.ledger.read_plan()
        if found is not None:
            done = self.ledger.progress().rows
            self.progress.say(f"resuming job {self.name}: {done:,} of {counted(found['rows'], 'passage')} done")
            return found
        try:
            self.segment.discard()  # of a plan that was interrupted, or of a job whose ledger is gone
            made = dict(make())
            self.ledger.write_plan(made)
        except (InputError, UsageError, MismatchError):
            self.forget()
            raise
        return made

    def write_segment(
        self, stage: str, write: Callable[[list[int]], None], *, rows: int, window: int, code_bytes: int
    ) -> SealedSegment:
        """Has `write` write the shards that the ledger does not list, then seals the segment.

        Args:
            stage: what the stage is called; `write` moves its progress, in rows.
            write: given numbers of shards, brings each into the ledger, by `record_shard` or by other processes.
            rows: passages of the segment.
            window: most tokens of a passage.
            code_bytes: bytes of one stored token.
        """
        with self.timed(stage):
            self.segment.create_arrays(rows, window, code_bytes)
            done = self.ledger.records()
            self.resumed = self.ledger.progress().rows
            self.progress.stage(stage, total=rows, unit="passages", start=self.resumed)
            write([shard for shard in range(-(-rows // SHARD_ROWS)) if shard not in done])
            self.progress.done()
            records = self.ledger.records().values()
            self.code_bytes_written = sum(record.codes_bytes for record in records)
            return self.segment.seal(records)

    def record_shard(self, shard: int, codes: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int32]) -> None:
        """Writes one shard, uint8 [rows, window, code_bytes] and int32 [rows], and marks it as done."""
        self.ledger.record(self.segment.write_shard(shard, codes, lengths))

    def commit(
        self,
        *,
        add: Iterable[pa.Table | pa.RecordBatch] = (),
        remove: Sequence[str] = (),
        segment: SealedSegment | None = None,
        rows_added: int | None = None,
        rows_removed: int | None = None,
        details: Mapping[str, Any],
    ) -> Manifest:
        """Makes version `base + 1`; see `Catalog.commit`. Raises ConflictError, and deletes what the job made then."""
        self.store.check_locks()
        try:
            with self.timed("commit"):
                return commit(
                    self.store,
                    base=self.base,
                    job=self.name,
                    operation=self.kind,
                    add=add,
                    remove=remove,
                    segments=[] if segment is None else [segment],
                    rows_added=rows_added,
                    rows_removed=rows_removed,
                    details=details,
                )
        except ConflictError:
            self.forget()
            raise

    def forget(self) -> None:
        """Deletes all that the job made; only while it holds the lock and has not committed."""
        self.segment.discard()
        self.ledger.clear()
        if not self._catalog.exists:
            self.store.remove_if_empty(SEGMENTS, JOBS, "")

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Records the wall time of the block in `seconds[stage]`, unless it raises."""
        begun = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - begun

    def _check_base(self) -> None:
        latest = self._catalog.latest_version() if self._catalog.exists else self.base
        if latest != self.base:
            self.forget()
            raise ConflictError(
                f"version {latest} has just been made by another job", where=self.store.name(), remedy="run again"
            )
