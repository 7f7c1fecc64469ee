"""Damaged shards: put back as they were written where that can be, else their live rows moved to a new segment.

What became of each shard comes from `restore`. Rows that could be restored though their shard could not are written to
a new segment in one commit, which with `drop` takes out the passages whose text is lost; a segment that still has a
damaged shard is then emptied by a compaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Final

import numpy as np
import pyarrow as pa

from ... import DamageError
from ...progress import Progress
from ...storage.catalog_files import read_catalog_file
from ...storage.manifest import Manifest
from ...storage.memory import Memory
from ...storage.passage import SHARD_ROWS, Passage
from ...storage.verify import TEXT_KIND, VerifyReport
from ..engines import Engine
from ..jobs import Job
from .compact import merge
from .repair_catalog import placed
from .repair_report import SHARD_KINDS, RepairResult
from .restore import OtherVersions, Reencoder, Restored, ShardRestorer, with_places
from .restore_step import DamagedShard, restore_on_engine

_MOST_BYTES: Final = 1 << 30  # of restored codes held in memory; the rest is for the next round


def repair_shards(
    memory: Memory,
    report: VerifyReport,
    result: RepairResult,
    *,
    model: str | None,
    drop: bool,
    engine: Engine,
    progress: Progress,
) -> None:
    """Restores the shards that `report` lists, as far as it can, and notes in `result` how; raises as `repair` does."""
    damaged: dict[tuple[str, int], set[str]] = defaultdict(set)
    for damage in report.damages:
        if damage.kind in SHARD_KINDS and damage.segment is not None and damage.shard is not None:
            damaged[damage.segment, damage.shard].add(damage.kind)
    if not damaged:
        return
    live = _live_rows(memory, {segment for segment, _ in damaged})
    encoder, others = Reencoder(memory, model), OtherVersions(memory)
    to_move: list[Restored] = []
    lost: dict[str, None] = {}
    shards = list(_restorable(memory, damaged, live))
    if not engine.is_this_process:
        put_back = restore_on_engine(memory, shards, model=model, engine=engine, progress=progress)
        for (segment, _), found in put_back.items():
            result.recoded += found.recoded
            for name in found.files:
                result.note(f"segments/{segment}/{name}", "put back as it was written")
        shards = [each for each in shards if (each.segment, each.shard) not in put_back]
    for each in shards:
        segment = each.segment
        reader = next(reader for reader in memory.readers if reader.segment == segment)
        restored = ShardRestorer(memory, reader, each.shard, set(each.kinds), dict(each.live), encoder, others).run()
        result.recoded += restored.recoded
        for name in restored.put_back:
            result.note(f"segments/{segment}/{name}", "put back as it was written")
        lost |= dict.fromkeys(restored.lost.values())
        if restored.not_back and (drop or not restored.lost or restored.not_back != [TEXT_KIND]):
            to_move.append(restored)
        if sum(item.codes.nbytes for item in to_move if item.codes is not None) > _MOST_BYTES:
            break
    result.lost = [] if drop else list(lost)  # the last round meets all that stay
    if not to_move or memory.version != memory.catalog.latest_version():
        return
    move = _Move(memory, to_move, drop, progress)
    move.run(result)
    # A segment with a damaged shard, though no row of it lives, is still read by verify: empty it.
    waiting = {segment for segment, rows in live.items() if not drop and not lost.keys().isdisjoint(rows.values())}
    base = Memory.open(memory.store, check=False)
    emptied = ({item.segment for item in to_move} - waiting) & set(base.segments)
    if emptied:
        result.new_version = merge(base, emptied, progress).version


def _restorable(
    memory: Memory, damaged: Mapping[tuple[str, int], set[str]], live: Mapping[str, Mapping[int, str]]
) -> Iterator[DamagedShard]:
    """The damaged shards whose digests are there; of others nothing says what they were."""
    for (segment, shard), kinds in sorted(damaged.items()):
        reader = next(reader for reader in memory.readers if reader.segment == segment)
        try:
            _ = reader.records
        except DamageError:
            continue
        here = {row: name for row, name in live[segment].items() if row // SHARD_ROWS == shard}
        yield DamagedShard(segment=segment, shard=shard, kinds=frozenset(kinds), live=here)


class _Move:
    """One commit in which rows that were restored stand in a new segment, and with `drop` the lost ones are gone."""

    def __init__(self, memory: Memory, restored: Sequence[Restored], drop: bool, progress: Progress) -> None:
        self._memory, self._restored = memory, restored
        self._places = [(item.segment, row) for item in restored for row in item.rows]
        self._dropped = {(item.segment, row): name for item in restored if drop for row, name in item.lost.items()}
        depends_on = {
            "base": memory.version,
            "content": memory.manifest.content_sha256,
            "rows": self._places,
            "dropped": list(self._dropped),
        }
        self._job = Job(memory.store, "repair", depends_on, base=memory.version, progress=progress)

    def run(self, result: RepairResult) -> None:
        """Commits, if there is anything to move or to drop, and notes it in `result`."""
        if not self._places and not self._dropped:
            return
        result.new_version = self._job.run(self._work).version
        result.moved += len(self._places)
        result.dropped += self._dropped.values()
        for item in self._restored:
            for kind in item.not_back:
                result.note(f"segments/{item.segment}/{kind}, shard {item.shard}", "live rows moved to a new segment")

    def _work(self) -> Manifest:
        job, memory = self._job, self._memory
        job.plan(lambda: {"rows": len(self._places)})
        sealed = None
        if self._places:
            sealed = job.write_segment(
                "move", self._write, rows=len(self._places), window=memory.window, code_bytes=memory.codec.code_bytes
            )
        moved = {place: number for number, place in enumerate(self._places)}
        touched = {segment for segment, _ in [*self._places, *self._dropped]}
        replaced = [file for file in memory.manifest.files if touched & set(file.segments)]

        def rows() -> Iterator[pa.Table]:
            for file in replaced:
                for batch in read_catalog_file(memory.store, file):
                    yield _relocated(batch, moved, self._dropped.keys(), sealed.segment if sealed else "")

        return job.commit(
            add=rows(),
            remove=[file.name for file in replaced],
            segment=sealed,
            rows_added=0,
            rows_removed=len(self._dropped),
            details={"moved": len(self._places)},
        )

    def _write(self, shards: list[int]) -> None:
        for shard, (passages, codes) in enumerate(_shards_of(self._memory, self._restored)):
            if shard in shards:
                self._job.segment.write_text(shard, passages)
                self._job.record_shard(shard, codes, np.array([len(passage.tokens) for passage in passages], np.int32))


def _shards_of(memory: Memory, restored: Sequence[Restored]) -> Iterator[tuple[list[Passage], Any]]:
    """The restored rows, 1,024 at a time."""
    passages: list[Passage] = []
    parts: list[Any] = []
    for item in restored:
        passages += with_places(memory, item.passages)
        parts.append(item.codes)
    codes = np.concatenate(parts)
    for start in range(0, len(passages), SHARD_ROWS):
        yield passages[start : start + SHARD_ROWS], codes[start : start + SHARD_ROWS]


def _live_rows(memory: Memory, segments: set[str]) -> dict[str, dict[int, str]]:
    """segment -> row -> passage id, of the live rows of `segments`."""
    live: dict[str, dict[int, str]] = {segment: {} for segment in segments}
    for batch in memory.passage_table(["passage_id", "segment", "row"]):
        columns = (batch.column(name).to_pylist() for name in ("passage_id", "segment", "row"))
        for name, segment, row in zip(*columns, strict=True):
            if segment in live:
                live[segment][row] = name
    return live


def _relocated(
    batch: pa.RecordBatch, moved: Mapping[tuple[str, int], int], dropped: Set[tuple[str, int]], segment: str
) -> pa.Table:
    """Catalog rows without those of `dropped`, and those of `moved` at their new row of `segment`."""
    places = list(zip(batch.column("segment").to_pylist(), batch.column("row").to_pylist(), strict=True))
    names = [segment if place in moved else place[0] for place in places]
    table = placed(pa.Table.from_batches([batch]), names, [moved.get(place, place[1]) for place in places])
    return table.filter(pa.array([place not in dropped for place in places], pa.bool_()))
