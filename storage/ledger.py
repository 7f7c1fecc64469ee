"""The ledger of a job under way: its plan, one small file a finished shard, a lock held by the process that runs it.

A shard counts as done when its record is there, whole. Records are written after the shard's own files are flushed,
each to a temporary name that is then renamed, so workers need no coordination and a crash costs the shards under way.
Names carry the row counts: progress is one directory listing, from any thread or process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import ConflictError, DamageError, StorageError, UsageError
from .files import make_directories, one_line, read_regular, sha256_bytes, storage_error, translated, write_atomic
from .locks import held, is_held
from .manifest import check_name
from .paths import local_path
from .removal import refuse_links, remove_file, remove_tree
from .segment_layout import ShardRecord

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

    def __init__(self, memory: Path | str, job: str) -> None:
        if not check_name(job):
            raise UsageError(f"job id {job!r} is not made of lower-case letters, digits and hyphens (at most 64)")
        self.job = job
        self._memory = local_path(memory)
        self.directory = self._memory / JOBS / job
        self._shards = self.directory / _SHARDS

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the job for this process; released when the block or the process ends, however it ends.

        Raises ConflictError at once if another process holds it, DamageError where one of the memory's directories is a
        link. Workers of the job do not take it.
        """
        refuse_links(self._memory)
        make_directories(self._shards)
        with held(
            self.directory / _LOCK,
            busy=lambda holder: ConflictError(
                f"{self.directory}: the job is being run by {holder}; wait for it to end"
            ),
        ):
            make_directories(self._shards)  # whoever held the lock before may have cleared the ledger
            yield

    @property
    def running(self) -> bool:
        """Whether a process holds the job's lock right now; writes nothing."""
        return is_held(self.directory / _LOCK)

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Records the finished plan, a JSON object; from then on planning need not be repeated."""
        make_directories(self._shards)
        write_atomic(self.directory / _PLAN, _sealed(plan))
        _log.info("job %s: planned", self.directory.name)

    def read_plan(self) -> dict[str, Any] | None:
        """The plan, or None if planning has not finished; raises DamageError if the file is damaged."""
        path = self.directory / _PLAN
        with translated(
            path, lambda text: DamageError(f"{path}: {text}; delete {self.directory} and run the job again")
        ):
            try:
                plan = _opened(read_regular(path, most=_LARGEST_PLAN))
            except FileNotFoundError:
                return None
        _log.info("job %s: a plan is there, %d shards are done", self.directory.name, self.progress().shards)
        return plan

    def write_fit(self, fit: Mapping[str, Any], tables: bytes) -> None:
        """Records that the codec was fitted: `tables`, and `fit`, a JSON object that says to what."""
        make_directories(self._shards)
        write_atomic(self.directory / _TABLES, tables)
        write_atomic(self.directory / _FIT, _sealed({**fit, "tables_sha256": sha256_bytes(tables)}))

    def read_fit(self) -> tuple[dict[str, Any], bytes] | None:
        """What `write_fit` recorded, with `tables_sha256`; None if the fit has not finished or is not what was written.

        A fit that is damaged is made again.
        """
        with contextlib.suppress(ValueError, RecursionError, FileNotFoundError, DamageError):
            fit = _opened(read_regular(self.directory / _FIT, most=_LARGEST_RECORD))
            tables = read_regular(self.directory / _TABLES, most=_LARGEST_TABLES)
            if sha256_bytes(tables) == fit.get("tables_sha256"):
                return fit, tables
        return None

    def record(self, record: ShardRecord) -> None:
        """Marks a shard as done; repeating it is harmless. Call it after `SegmentWriter.write_shard` returned."""
        make_directories(self._shards)
        write_atomic(self._shards / f"{record.shard}-{record.rows}.json", _sealed(record.to_json()))
        _log.debug("shard %d is done: %d rows, %d tokens", record.shard, record.rows, record.tokens)

    def records(self) -> dict[int, ShardRecord]:
        """Shard -> record of every shard that is done. A damaged record counts as not done: its shard is made again."""
        found: dict[int, ShardRecord] = {}
        for name in self._names():
            with contextlib.suppress(ValueError, RecursionError, FileNotFoundError, DamageError):
                record = ShardRecord.from_json(_opened(read_regular(self._shards / name, most=_LARGEST_RECORD)))
                if name == f"{record.shard}-{record.rows}.json":
                    found[record.shard] = record
        return found

    def progress(self) -> Progress:
        """Shards and rows done, by names alone: cheap enough to ask several times a second."""
        rows = [int(match.group(2)) for name in self._names() if (match := _RECORD_NAME.fullmatch(name))]
        return Progress(len(rows), sum(rows))

    def forget(self) -> None:
        """Deletes plan, fit and records, not the lock that the caller holds: the job starts from nothing next time."""
        for name in (_PLAN, _FIT, _TABLES):
            remove_file(self.directory / name, within=self._memory)
        remove_tree(self._shards, within=self._memory)

    def clear(self) -> None:
        """Deletes the ledger, when the job's commit is in the history."""
        with contextlib.suppress(StorageError):  # a vacuum finds what stays behind
            remove_tree(self.directory, within=self._memory)

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._shards) if _RECORD_NAME.fullmatch(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(self._shards, error) or StorageError(f"{self._shards}: {one_line(error)}") from error


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
