"""Damaged shards restored by the workers of an engine: each shard is an element, put back whole or left as it is.

A worker does to a shard what `restore` does, and leaves a record of it under the repair's own directory of jobs. A
shard that cannot be put back as it was written is left to the process that runs the repair, which alone commits.
"""

from __future__ import annotations

import contextlib
import functools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam

from ...progress import Progress, polled
from ...storage.ledger import JOBS
from ...storage.memory import Memory
from ..engines import Engine, run_step
from ..engines.seen_by_workers import memory_for_workers
from ..jobs import job_id
from ..per_process import PerProcess
from .restore import OtherVersions, Reencoder, ShardRestorer

_LARGEST_RECORD = 1 << 20


@dataclass(frozen=True, kw_only=True)
class DamagedShard:
    """A shard to restore: its kinds of damage, and row -> passage id of its rows that live."""

    segment: str
    shard: int
    kinds: frozenset[str]
    live: Mapping[int, str]


@dataclass(frozen=True, kw_only=True)
class PutBack:
    """What a worker put back of one shard: names of files, relative to its segment, and the passages encoded again."""

    files: Sequence[str]
    recoded: int


def restore_on_engine(
    memory: Memory, damaged: Sequence[DamagedShard], *, model: str | None, engine: Engine, progress: Progress
) -> dict[tuple[str, int], PutBack]:
    """(segment, shard) -> what was put back, of every shard that is whole again. Raises what a worker raised."""
    shards = [(each.segment, each.shard) for each in damaged]
    key = f"{JOBS}/{job_id('repair', {'version': memory.version, 'shards': shards})}"
    step = RestoreShards(
        memory=memory_for_workers(memory.store, engine), version=memory.version, model=model, records=key
    )

    def done() -> int:
        return len(list(memory.store.names(key)))

    progress.stage("restore", total=len(damaged), unit="shards")
    try:
        with polled(progress, done, memory.store.poll_seconds):
            run_step("Restore", damaged, step, engine, done)
        found = {}
        for segment, shard in shards:
            with contextlib.suppress(FileNotFoundError):
                record = json.loads(memory.store.read(f"{key}/{_name(segment, shard)}", most=_LARGEST_RECORD))
                if record["whole"]:
                    found[segment, shard] = PutBack(files=record["files"], recoded=record["recoded"])
        progress.done()
        return found
    finally:
        memory.store.delete_tree(key)


class RestoreShards(beam.DoFn):
    """Restores damaged shards where they can be put back as they were written; outputs nothing but records.

    All copies of the step in one process share the memory encoder, and take turns.
    """

    def __init__(self, *, memory: str, version: int, model: str | None, records: str) -> None:
        self._memory, self._version, self._records = memory, version, records
        self._opened = PerProcess(functools.partial(_open, memory, version, model))

    def check(self) -> None:
        """Raises what keeps this process from running the step, and loads nothing large."""
        Memory.open(self._memory, self._version, check=False)

    def setup(self) -> None:
        self._tools = self._opened.acquire()

    def process(self, damaged: DamagedShard) -> Iterator[None]:
        tools = self._tools
        with tools.turn:
            reader = next(reader for reader in tools.memory.readers if reader.segment == damaged.segment)
            restored = ShardRestorer(
                *(tools.memory, reader, damaged.shard, set(damaged.kinds), dict(damaged.live)),
                *(tools.encoder, tools.others),
            ).run()
        record = {
            "whole": not restored.not_back and not restored.lost,
            "files": restored.put_back,
            "recoded": restored.recoded,
        }
        name = _name(damaged.segment, damaged.shard)
        tools.memory.store.put(f"{self._records}/{name}", json.dumps(record).encode())
        return iter(())

    def teardown(self) -> None:
        del self._tools  # it holds the weights
        self._opened.release()


class _Tools(NamedTuple):
    """What shards are restored with, and the lock of whoever uses it."""

    memory: Memory
    encoder: Reencoder
    others: OtherVersions
    turn: threading.Lock


def _open(place: str, version: int, model: str | None) -> _Tools:
    memory = Memory.open(place, version, check=False)
    return _Tools(memory, Reencoder(memory, model), OtherVersions(memory), threading.Lock())


def _name(segment: str, shard: int) -> str:
    return f"{segment}-{shard}.json"
