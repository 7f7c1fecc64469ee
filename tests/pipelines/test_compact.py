"""Compact: live rows leave sparse segments, byte for byte, in one commit that nobody notices but the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimmer import ConflictError, DamageError, UsageError
from glimmer.pipelines.jobs import segment_id
from glimmer.pipelines.maintenance.compact import compact
from glimmer.pipelines.maintenance.vacuum import vacuum
from glimmer.storage.catalog_files import passage_rows, read_catalog_file
from glimmer.storage.ledger import Ledger
from glimmer.storage.memory import Memory, commit
from glimmer.storage.verify import verify


def content(memory: Memory) -> dict[str, tuple[bytes, bytes, object]]:
    """Passage id -> codes, tokens and text: all that a reader sees of it."""
    where = np.arange(memory.passages)
    codes, lengths = memory.fetch(where)
    texts = memory.texts(where)
    return {
        text.passage_id: (code[:length].tobytes(), text.tokens.tobytes(), text)
        for code, length, text in zip(codes, lengths, texts, strict=True)
    }


def without(memory: Path, gone: set[str], job: str = "thinned") -> int:
    """Commits a version without the passages `gone`."""
    base = Memory.open(memory)
    add = []
    for file in base.manifest.files:
        for batch in read_catalog_file(base.store, file):
            keep = [name not in gone for name in batch.column("passage_id").to_pylist()]
            add.append(batch.filter(keep))
    names = [file.name for file in base.manifest.files]
    return commit(memory, base=base.version, job=job, operation="refresh", add=add, remove=names).version


@pytest.fixture(params=["int8", "pq"])
def sparse(kit: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Segments of 1,100 (every second row dead), 50 (all live) and 60 rows (all but five dead)."""
    memory = (kit.of_pq() if request.param == "pq" else kit).memory(tmp_path / "m", 1100, 50, 60)
    gone = [kit.passage(n).passage_id for n in [*range(0, 1100, 2), *range(1155, 1210)]]
    without(memory, set(gone))
    return memory


def test_sparse_segments_become_one_and_every_passage_stays_what_it_was(sparse: Path) -> None:
    before = Memory.open(sparse)
    expected, ids = content(before), before.ids(np.arange(before.passages))
    result = compact(memory=sparse)
    after = Memory.open(sparse)
    assert (result.base, result.version, after.version) == (4, 5, 5)
    assert (result.merged, result.rows, result.dead_rows) == (("seg-job-0", "seg-job-2"), 555, 605)
    assert after.manifest.live_rows == {"seg-job-1": 50, result.segment: 555}
    assert content(after) == expected
    assert after.ids(np.arange(after.passages)) == ids, "positions stay"
    assert verify(sparse).sound
    assert (after.manifest.operation, after.manifest.rows_added, after.manifest.rows_removed) == ("compact", 0, 0)
    assert content(before) == expected, "a reader pinned to the old version goes on"
    assert not Path(Ledger(sparse, result.job).name).exists()


def test_nothing_sparse_means_nothing_to_do_and_no_commit(sparse: Path) -> None:
    compact(memory=sparse)
    again = compact(memory=sparse)
    assert again.nothing_to_do
    assert (again.version, Memory.open(sparse).version) == (5, 5)


@pytest.mark.parametrize(("share", "merged"), [(0.95, 0), (0.6, 1), (0.3, 2), (0, 2)])
def test_the_share_of_dead_rows_decides(sparse: Path, share: float, merged: int) -> None:
    assert len(compact(memory=sparse, dead_share=share).merged) == merged


def test_a_share_that_cannot_be_is_refused(sparse: Path) -> None:
    for share in (-0.1, 1.0):
        with pytest.raises(UsageError, match="dead_share"):
            compact(memory=sparse, dead_share=share)


def test_rows_whose_place_in_the_article_moved_keep_the_new_place(kit: Any, tmp_path: Path) -> None:
    memory = kit.memory(tmp_path / "m", 30)
    from dataclasses import replace

    passages = [replace(kit.passage(n), start_paragraph_id=70 + n, end_paragraph_id=71 + n) for n in range(10)]
    file = Memory.open(memory).manifest.files[0]
    rows = passage_rows(passages, "seg-job-0", 0)
    commit(memory, base=1, job="moved", operation="refresh", add=[rows], remove=[file.name])
    expected = content(Memory.open(memory))
    compact(memory=memory)
    assert content(Memory.open(memory)) == expected
    assert Memory.open(memory).texts([0])[0].start_paragraph_id >= 70


def test_damage_is_never_copied(sparse: Path) -> None:
    path = sparse / "segments/seg-job-0/text/1.arrow"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamageError, match=r"text/1\.arrow: not what was written.*glimmer repair"):
        compact(memory=sparse)
    assert Memory.open(sparse).version == 4
    path.write_bytes(whole)
    assert compact(memory=sparse).version == 5, "with the shard whole again the job goes on"


def test_a_commit_in_between_is_a_conflict_that_leaves_nothing(
    sparse: Path, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glimmer.pipelines.maintenance import compact as module

    class Racing(module._Moves):
        def __init__(self, base: Memory, names: list[str]) -> None:
            super().__init__(base, names)
            kit.add(sparse, [kit.passage(n) for n in range(9000, 9010)], job="winner", base=4)

    monkeypatch.setattr(module, "_Moves", Racing)
    present = {path.name for path in (sparse / "segments").iterdir()}
    with pytest.raises(ConflictError, match="winner"):
        compact(memory=sparse)
    assert {path.name for path in (sparse / "segments").iterdir()} == present | {"seg-winner"}
    assert list((sparse / "jobs").iterdir()) == []
    monkeypatch.undo()
    assert compact(memory=sparse).version == 6


def test_one_process_at_a_time(sparse: Path) -> None:
    name = compact(memory=sparse).job
    from glimmer.storage.memory import rollback

    rollback(sparse, to=4, base=5, job="undo")
    with Ledger(sparse, name).lock():
        assert compact(memory=sparse).version == 7, "after a rollback it is another job"


def test_old_segments_go_with_a_vacuum_and_the_compacted_memory_stays(sparse: Path) -> None:
    expected = content(Memory.open(sparse))
    result = compact(memory=sparse)
    import datetime

    gone = vacuum(memory=sparse, older_than=datetime.timedelta(0), keep_versions=1)
    assert {path for path in gone.paths if path.startswith("segments/")} == {
        "segments/seg-job-0",
        "segments/seg-job-2",
    }
    assert content(Memory.open(sparse)) == expected
    assert verify(sparse).sound
    assert segment_id(result.job) == result.segment
