"""The ledger of a job under way: its plan, one small file a finished shard, a lock held by the process that runs it.

A shard counts as done when its record is there, whole. Records are written after the shard's own files are flushed,
each whole or not at all, so workers need no coordination and a crash costs the shards under way.
Names carry the row counts: progress is one directory listing, from any thread or process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .. import ConflictError, DamageError, StorageError, UsageError
from .files import sha256_bytes, translated
from .manifest import check_name
from .segment_layout import ShardRecord
from .stores import Place, open_store

JOBS = "jobs"
_PLAN = "plan.json"
_FIT, _TABLES = "fit.json", "tables.safetensors"
_SHARDS = "shards"
_LOCK = "lock"
_RECORD_NAME = re.compile(r"([0-9]{1,9})-([0-9]{1,4})\.json")
_LARGEST_PLAN, _LARGEST_RECORD, _LARGEST_TABLES = 1 << 30, 1 << 16, 1 << 30
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a job is: shards and rows finished."""

    shards: int
    rows: int


class Ledger:
    """`jobs/<job>/` of the memory at `memory`. Holds no state, so any process may open it."""

    def __init__(self, memory: Place, job: str) -> None:
        if not check_name(job):
            raise UsageError(f"job id {job!r} is not made of lower-case letters, digits and hyphens (at most 64)")
        self.job = job
        self.store = open_store(memory)
        self.key = f"{JOBS}/{job}"
        self.name = self.store.name(self.key)
        self._shards = f"{self.key}/{_SHARDS}"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the job for this process; released when the block or the process ends, however it ends.

        Raises ConflictError at once if another process holds it, DamageError where one of the memory's directories is a
        link. Workers of the job do not take it.
        """
        self.store.refuse_links()
        with self.store.lock(
            f"{self.key}/{_LOCK}",
            busy=lambda holder: ConflictError(
                f"the job is being run by {holder}", where=self.name, remedy="wait for it to end"
            ),
        ):
            yield

    @property
    def running(self) -> bool:
        """Whether a process holds the job's lock right now; writes nothing."""
        return self.store.is_locked(f"{self.key}/{_LOCK}")

    @property
    def is_planned(self) -> bool:
        """Whether planning has finished."""
        return self.store.exists(f"{self.key}/{_PLAN}")

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Records the finished plan, a JSON object; from then on planning need not be repeated."""
        self.store.put(f"{self.key}/{_PLAN}", _sealed(plan))
        _log.info("job %s: planned", self.job)

    def read_plan(self) -> dict[str, Any] | None:
        """The plan, or None if planning has not finished; raises DamageError if the file is damaged."""
        key = f"{self.key}/{_PLAN}"
        name = self.store.name(key)
        with translated(
            name, lambda text: DamageError(text, where=name, remedy=f"delete {self.name} and run the job again")
        ):
            try:
                plan = _opened(self.store.read(key, most=_LARGEST_PLAN))
            except FileNotFoundError:
                return None
        _log.info("job %s: a plan is there, %d shards are done", self.job, self.progress().shards)
        return plan

    def write_fit(self, fit: Mapping[str, Any], tables: bytes) -> None:
        """Records that the codec was fitted: `tables`, and `fit`, a JSON object that says to what."""
        self.store.put(f"{self.key}/{_TABLES}", tables)
        self.store.put(f"{self.key}/{_FIT}", _sealed({**fit, "tables_sha256": sha256_bytes(tables)}))

    def read_fit(self) -> tuple[dict[str, Any], bytes] | None:
        """What `write_fit` recorded, with `tables_sha256`; None if the fit has not finished or is not what was written.

        A fit that is damaged is made again.
        """
        with contextlib.suppress(ValueError, RecursionError, FileNotFoundError, DamageError):
            fit = _opened(self.store.read(f"{self.key}/{_FIT}", most=_LARGEST_RECORD))
            tables = self.store.read(f"{self.key}/{_TABLES}", most=_LARGEST_TABLES)
            if sha256_bytes(tables) == fit.get("tables_sha256"):
                return fit, tables
        return None

    def record(self, record: ShardRecord) -> None:
        """Marks a shard as done; repeating it is harmless. Call it after `SegmentWriter.write_shard` returned."""
        self.store.put(f"{self._shards}/{record.shard}-{record.rows}.json", _sealed(record.to_json()))
        _log.debug("shard %d is done: %d rows, %d tokens", record.shard, record.rows, record.tokens)

    def records(self) -> dict[int, ShardRecord]:
        """Shard -> record of every shard that is done. A damaged record counts as not done: its shard is made again."""
        found = self.store.in_order(self._record, self._names())
        return {record.shard: record for record in found if record is not None}

    def _record(self, name: str) -> ShardRecord | None:
        with contextlib.suppress(ValueError, RecursionError, FileNotFoundError, DamageError):
            content = self.store.read(f"{self._shards}/{name}", most=_LARGEST_RECORD)
            record = ShardRecord.from_json(_opened(content))
            if name == f"{record.shard}-{record.rows}.json":
                return record
        return None

    def progress(self) -> Progress:
        """Shards and rows done, by names alone: cheap enough to ask several times a second."""
        rows = [int(match.group(2)) for name in self._names() if (match := _RECORD_NAME.fullmatch(name))]
        return Progress(len(rows), sum(rows))

    def forget(self) -> None:
        """Deletes plan, fit and records, not the lock that the caller holds: the job starts from nothing next time."""
        for name in (_PLAN, _FIT, _TABLES):
            self.store.delete(f"{self.key}/{name}")
        self.store.delete_tree(self._shards)

    def clear(self) -> None:
        """Deletes the ledger, when the job's commit is in the history."""
        with contextlib.suppress(StorageError):  # a vacuum finds what stays behind
            self.store.delete_tree(self.key)

    def _names(self) -> list[str]:
        return [name for name in self.store.names(self._shards) if _RECORD_NAME.fullmatch(name)]


def _sealed(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{zlib.crc32(text.encode()):08x} {text}\n".encode()


def _opened(content: bytes) -> dict[str, Any]:
    """Inverse of `_sealed`; raises ValueError if the checksum disagrees."""
    checksum, _, text = content.decode().rstrip("\n").partition(" ")
    if f"{zlib.crc32(text.encode()):08x}" != checksum:
        raise ValueError("the file fails its checksum")
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("the file is not an object")
    return value
