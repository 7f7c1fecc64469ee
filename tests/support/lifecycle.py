"""The life of a memory in small steps that can be killed and run again, and a look at what a killed process left.

Every scenario has a `prepare` (the memory before it) and a `run`, which a job may repeat after any crash. Nothing here
needs a model: codes are made up, everything else is the real code. The module is imported by `zygote.py`, whose forked
children run it, and by the tests.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kit import Kit

from glimmer import GlimmerError
from glimmer.pipelines.jobs import Job
from glimmer.pipelines.maintenance.compact import compact
from glimmer.pipelines.maintenance.repair import repair
from glimmer.pipelines.maintenance.vacuum import vacuum
from glimmer.storage.catalog import Catalog
from glimmer.storage.catalog_files import passage_rows, read_catalog_file
from glimmer.storage.ledger import Ledger
from glimmer.storage.manifest import Manifest
from glimmer.storage.memory import Memory, rollback
from glimmer.storage.passage import SHARD_ROWS
from glimmer.storage.verify import verify

KIT = Kit().of_pq()  # with tables, which are one file more to be killed at
ROWS = SHARD_ROWS + 9
# Made before any child is forked, so that a child spends its time on what is tested.
PASSAGES = {number: KIT.passage(number) for number in range(ROWS)}
CODES = KIT.codes(list(PASSAGES.values()))


@dataclass(frozen=True)
class Scenario:
    """`prepare` makes the memory, `run` is the job, `before` and `after` its versions around it."""

    prepare: Callable[[Path], object]
    run: Callable[[Path], object]
    before: int
    after: int
    damaged_before: bool = False


def add_passages(memory: Path, kind: str, numbers: range, *, base: int, gone: set[str] | None = None) -> None:
    """A job on the skeleton of jobs that adds passages and takes out those `gone`; its codes are made up."""
    job = Job(memory, kind, {"numbers": [numbers.start, numbers.stop]}, base=base)
    passages = [PASSAGES[number] for number in numbers]
    parts = [passages[start : start + SHARD_ROWS] for start in range(0, len(passages), SHARD_ROWS)]

    def plan() -> dict[str, Any]:
        for shard, part in enumerate(parts):
            job.segment.write_text(shard, part)
        return {"rows": len(passages)}

    def write(shards: list[int]) -> None:
        for shard in shards:
            lengths = np.array([len(passage.tokens) for passage in parts[shard]], np.int32)
            first = numbers.start + shard * SHARD_ROWS
            job.record_shard(shard, CODES[first : first + len(lengths)].copy(), lengths)

    def work() -> Manifest:
        job.plan(plan)
        KIT.create(memory)
        sealed = job.write_segment("encode", write, rows=len(passages), window=KIT.window, code_bytes=KIT.code_bytes)
        add: list[Any] = [passage_rows(passages, sealed.segment, 0)]
        replaced = Memory.open(memory, base).manifest.files if gone else ()
        for file in replaced:
            for batch in read_catalog_file(Memory.open(memory, base).store, file):
                add.append(batch.filter([name not in (gone or ()) for name in batch.column("passage_id").to_pylist()]))
        return job.commit(add=add, remove=[file.name for file in replaced], segment=sealed, details={})

    job.run(work)


def ids(numbers: range) -> set[str]:
    return {PASSAGES[number].passage_id for number in numbers}


def encode(memory: Path) -> None:
    add_passages(memory, "encode", range(ROWS), base=0)


def refresh(memory: Path) -> None:
    add_passages(memory, "refresh", range(500, 530), base=1, gone=ids(range(5, 15)))


def prepare_sparse(memory: Path) -> None:
    KIT.memory(memory, 60, 20)
    add_passages(memory, "thin", range(700, 705), base=2, gone=ids(range(10, 50)))


def prepare_rolled_back(memory: Path) -> None:
    KIT.memory(memory, 40, 30)
    rollback(memory, to=1, base=2, job="undo")
    Ledger(memory, "undo").write_plan({})


def roll_back(memory: Path) -> None:
    rollback(memory, to=1, base=2, job="undo")


def prepare_damaged(memory: Path) -> None:
    KIT.memory(memory, 40, 30)
    for name in ("lengths/c.0", "codes/zarr.json", "zarr.json"):
        (memory / "segments/seg-job-0" / name).unlink()
    file = Memory.open(memory, check=False).manifest.files[0].name
    (memory / "passages" / file).write_bytes(b"not what was there")


def vacuum_now(memory: Path) -> None:
    vacuum(memory=memory, older_than=datetime.timedelta(0), keep_versions=1)


SCENARIOS: dict[str, Scenario] = {
    "plan, encode, commit": Scenario(lambda memory: None, encode, -1, 1),
    "refresh": Scenario(lambda memory: KIT.memory(memory, 40), refresh, 1, 2),
    "compaction": Scenario(prepare_sparse, lambda memory: compact(memory=memory, dead_share=0.3), 3, 4),
    "vacuum": Scenario(prepare_rolled_back, vacuum_now, 3, 3),
    "rollback": Scenario(lambda memory: KIT.memory(memory, 40, 30), roll_back, 2, 3),
    "repair": Scenario(prepare_damaged, lambda memory: repair(memory=memory), 2, 2, damaged_before=True),
}


def look(memory: Path) -> dict[str, Any]:
    """What a reader and `verify` see: version (-1 before there is any), a digest of all content, what is damaged."""
    if not Catalog(memory).exists:
        return {"version": -1, "content": "", "damages": []}
    report = verify(memory)
    try:
        opened = Memory.open(memory)
        content = digest(opened)
        version = opened.version
    except GlimmerError as error:
        version, content = Catalog(memory).latest_version(), f"refused: {type(error).__name__}"
    return {"version": version, "content": content, "damages": [str(damage) for damage in report.damages]}


def digest(opened: Memory) -> str:
    """SHA-256 over ids, codes and texts of all passages, in the order of their ids."""
    where, total = np.arange(opened.passages), hashlib.sha256()
    codes, lengths = opened.fetch(where)
    for passage, code, length in zip(opened.texts(where), codes, lengths, strict=True):
        total.update(f"{astuple(passage)!r}|{length}|".encode() + passage.tokens.tobytes() + code.tobytes())
    return total.hexdigest()
