"""Vacuum: what nobody needs goes; what a kept version, a job or a stranger owns stays."""

from __future__ import annotations

import datetime
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimmer import ConflictError, DamageError, UsageError
from glimmer.pipelines.jobs import segment_id
from glimmer.pipelines.maintenance.vacuum import vacuum
from glimmer.storage.catalog import Catalog
from glimmer.storage.files import REMOVED_PREFIX
from glimmer.storage.ledger import Ledger
from glimmer.storage.memory import Memory, rollback
from glimmer.storage.removal import remove_tree
from glimmer.storage.segment_writer import SegmentWriter
from glimmer.storage.stores import LocalStore
from glimmer.storage.verify import verify

DAY = datetime.timedelta(days=1)
NOW = datetime.timedelta(0)


def age(path: Path, days: float) -> None:
    """Makes everything in the tree at `path` so old."""
    then = time.time() - days * 86400
    for each in (path, *path.rglob("*")):
        os.utime(each, (then, then), follow_symlinks=False)


def names(path: Path) -> set[str]:
    return {each.name for each in path.iterdir()} if path.is_dir() else set()


@pytest.fixture
def rolled_back(kit: Any, tmp_path: Path) -> Path:
    """Version 1 has segment seg-job-0, version 2 seg-job-1 too, version 3 only the first again."""
    memory = kit.memory(tmp_path / "m", 40, 30)
    rollback(memory, to=1, base=2, job="undo")
    return memory


def test_what_only_old_versions_name_is_deleted(rolled_back: Path) -> None:
    gone = {f.name for f in Memory.open(rolled_back, 2).manifest.files}
    gone -= {f.name for f in Memory.open(rolled_back).manifest.files}
    result = vacuum(memory=rolled_back, older_than=NOW, keep_versions=1)
    assert (result.oldest, result.newest, result.segments, result.catalog_files) == (3, 3, 1, 1)
    assert set(result.paths) == {"segments/seg-job-1", "indexes/1", "indexes/2"} | {f"passages/{n}" for n in gone}
    assert result.bytes > 0
    memory = Memory.open(rolled_back)
    assert memory.fetch(np.arange(40))[1].sum() == memory.tokens
    assert verify(rolled_back).sound
    assert names(rolled_back / "segments") == {"seg-job-0"}
    again = vacuum(memory=rolled_back, older_than=NOW, keep_versions=1)
    assert again.paths == ()


def test_a_vacuumed_version_says_so_wherever_it_is_asked_for(rolled_back: Path) -> None:
    vacuum(memory=rolled_back, older_than=NOW, keep_versions=1)
    for ask in (
        lambda: Memory.open(rolled_back, 2),
        lambda: Memory.open(rolled_back, 2, check=False),
        lambda: verify(rolled_back, version=2),
        lambda: rollback(rolled_back, to=2, base=3, job="redo"),
    ):
        with pytest.raises(UsageError, match=r"version 2 was vacuumed .* is gone\); choose a newer one"):
            ask()
    assert Memory.open(rolled_back, 1).passages == 40, "nothing that version 1 names is gone"
    assert [entry.version for entry in Catalog(rolled_back).history()] == [3, 2, 1, 0]


def test_a_dry_run_names_the_same_and_touches_nothing(rolled_back: Path) -> None:
    before = {path: path.lstat().st_mtime_ns for path in rolled_back.rglob("*")}
    expected = vacuum(memory=rolled_back, older_than=NOW, keep_versions=1, dry_run=True)
    assert {path: path.lstat().st_mtime_ns for path in rolled_back.rglob("*")} == before
    assert expected.paths == vacuum(memory=rolled_back, older_than=NOW, keep_versions=1).paths


def test_the_newest_versions_and_those_in_use_within_the_threshold_are_kept(rolled_back: Path) -> None:
    age(rolled_back, 30)
    assert vacuum(memory=rolled_back, older_than=NOW, keep_versions=2, dry_run=True).oldest == 2
    # Version 2 was the newest until a moment ago, however long ago it was made.
    assert vacuum(memory=rolled_back, older_than=DAY, keep_versions=1).paths == ()
    assert vacuum(memory=rolled_back).paths == ()


def test_files_younger_than_the_threshold_stay(rolled_back: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time() + 30 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setattr(LocalStore, "clock", lambda _: later)
    recent = later - 3600
    os.utime(rolled_back / "segments/seg-job-1/codes/c.0.0.0", (recent, recent))
    result = vacuum(memory=rolled_back, keep_versions=1)
    assert (result.segments, result.catalog_files) == (0, 1), "one young file keeps its segment"


@pytest.mark.parametrize("skew_days", [-4000, -1, 1, 4000])
def test_a_wrong_clock_never_makes_needed_things_old(
    rolled_back: Path, kit: Any, monkeypatch: pytest.MonkeyPatch, skew_days: int
) -> None:
    """Files from the future are young; a clock that runs ahead of the disk's is not believed."""
    future = time.time() + 400 * 86400
    for path in (rolled_back / "segments/seg-job-1").rglob("*"):
        os.utime(path, (future, future))
    wrong = time.time() + skew_days * 86400
    monkeypatch.setattr(time, "time", lambda: wrong)
    assert "segments/seg-job-1" not in vacuum(memory=rolled_back, keep_versions=1).paths
    assert Memory.open(rolled_back).fetch(np.arange(40))[0].any()
    assert Memory.open(rolled_back, 2).passages == 70


def test_a_running_job_keeps_all_it_has(kit: Any, rolled_back: Path) -> None:
    job = "encode-0123456789abcdef"
    ledger, writer = Ledger(rolled_back, job), SegmentWriter(rolled_back, segment_id(job))
    with ledger.lock():
        ledger.write_plan({"rows": 1})
        writer.write_text(0, [kit.passage(5)])
        (Path(writer.name) / "text/.tmp-1.arrow-ab").write_bytes(b"")
        age(rolled_back, 300)
        result = vacuum(memory=rolled_back, older_than=NOW, keep_versions=1)
        assert result.kept_jobs == (job,)
        assert ledger.read_plan() == {"rows": 1}
        assert names(Path(writer.name) / "text") == {"0.arrow", ".tmp-1.arrow-ab"}


def test_an_unfinished_job_can_go_on_until_it_is_older_than_the_threshold(kit: Any, rolled_back: Path) -> None:
    job = "encode-0123456789abcdef"
    ledger, writer = Ledger(rolled_back, job), SegmentWriter(rolled_back, segment_id(job))
    ledger.write_plan({"rows": 1})
    writer.write_text(0, [kit.passage(5)])
    assert vacuum(memory=rolled_back, older_than=DAY, keep_versions=1).kept_jobs == (job,)
    age(rolled_back / "jobs", 30)
    assert vacuum(memory=rolled_back, older_than=DAY, keep_versions=1).kept_jobs == (job,), "its segment is young"
    age(rolled_back / "segments", 30)
    gone = vacuum(memory=rolled_back, older_than=DAY, keep_versions=1)
    assert {f"jobs/{job}", f"segments/{segment_id(job)}"} <= set(gone.paths)
    assert not Path(ledger.name).exists()
    assert not Path(writer.name).exists()


def test_ledgers_of_finished_jobs_and_leftovers_of_killed_ones_go(rolled_back: Path) -> None:
    Ledger(rolled_back, "job-0").write_plan({})
    litter = [
        ".tmp-memory.json-00",
        "passages/.tmp-part-00",
        "passages/part-00000-" + "0" * 32 + ".parquet",
        "segments/.tmp-0123",
        "segments/seg-job-0/codes/c.0.0.0.__lock",
        "segments/seg-job-0/text/.tmp-0.arrow-77",
        "indexes/3/.tmp-ids.map-12",
        "jobs/encode-00.rejected.jsonl",
    ]
    for name in litter:
        (rolled_back / name).write_bytes(b"x")
    young = vacuum(memory=rolled_back, older_than=NOW, keep_versions=9)
    assert "jobs/job-0" in young.paths
    assert not any(".tmp-" in path or "__lock" in path for path in young.paths), "may be a live process's for an hour"
    age(rolled_back, 2)
    gone = {*young.paths, *vacuum(memory=rolled_back, older_than=DAY, keep_versions=9).paths}
    assert gone == {"jobs/job-0", *litter}
    assert verify(rolled_back).sound


def test_what_a_killed_vacuum_was_deleting_goes_at_once(rolled_back: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segment = rolled_back / "segments/seg-job-1"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed between the rename and the deletion
        remove_tree(segment, within=rolled_back)
    left = [name for name in names(rolled_back / "segments") if name.startswith(REMOVED_PREFIX)]
    assert len(left) == 1
    assert f"segments/{left[0]}" in vacuum(memory=rolled_back, older_than=DAY, keep_versions=9).paths
    assert not any(name.startswith(REMOVED_PREFIX) for name in names(rolled_back / "segments"))


def test_a_directory_may_be_deleted_by_several_at_once(tmp_path: Path) -> None:
    for turn in range(20):
        doomed = tmp_path / f"doomed-{turn}"
        for name in range(50):
            (doomed / f"{name % 5}").mkdir(parents=True, exist_ok=True)
            (doomed / f"{name % 5}/{name}").write_bytes(b"")

        def delete(_: int) -> None:
            for path in list(tmp_path.iterdir()):
                remove_tree(path, within=tmp_path)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(delete, range(4)))
        delete(0)
        assert names(tmp_path) == set()


def test_what_is_not_ours_is_never_touched(rolled_back: Path, tmp_path: Path) -> None:
    strangers = [
        "notes.txt",
        "passages/other.parquet",
        "passages/_delta_log/notes",
        "segments/README",
        "segments/Not A Segment/file",
        "indexes/latest/file",
        "indexes/12345678/ids.map",
        "jobs/Notes/file",
        "segments/seg-job-0/mine",
    ]
    for name in strangers:
        (rolled_back / name).parent.mkdir(parents=True, exist_ok=True)
        (rolled_back / name).write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "letter").write_text("dear")
    (rolled_back / "segments/linked").symlink_to(elsewhere)
    (rolled_back / "segments/.tmp-linked").symlink_to(elsewhere)
    (rolled_back / "segments/seg-job-1/inside").symlink_to(elsewhere)
    age(rolled_back, 300)
    vacuum(memory=rolled_back, older_than=NOW, keep_versions=1)
    assert [name for name in strangers if not (rolled_back / name).exists()] == []
    assert (elsewhere / "letter").read_text() == "dear"
    assert (rolled_back / "segments/linked").is_symlink()
    assert not (rolled_back / "segments/seg-job-1").exists()


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_damaged_log_stops_it(rolled_back: Path, version: int) -> None:
    path = rolled_back / "passages/_delta_log" / f"{version:020d}.json"
    path.write_bytes(path.read_bytes().replace(b"sha256", b"sha257"))
    before = names(rolled_back / "segments")
    with pytest.raises(DamageError, match=r"damaged, so nothing is deleted|run `glimmer verify"):
        vacuum(memory=rolled_back, older_than=NOW, keep_versions=1)
    assert names(rolled_back / "segments") == before


def test_no_commit_and_no_vacuum_at_once(rolled_back: Path) -> None:
    with Catalog(rolled_back).lock(shared=True), pytest.raises(ConflictError, match="a commit is under way"):
        vacuum(memory=rolled_back, older_than=NOW, keep_versions=1)
    assert Memory.open(rolled_back, 2).passages == 70


def test_a_reader_keeps_its_version_through_a_vacuum_as_long_as_it_is_kept(rolled_back: Path) -> None:
    reader = Memory.open(rolled_back, 2)
    vacuum(memory=rolled_back, older_than=NOW, keep_versions=2)
    assert reader.fetch(np.arange(70))[1].sum() == reader.tokens
    vacuum(memory=rolled_back, older_than=NOW, keep_versions=1)
    with pytest.raises(DamageError, match="seg-job-1"):
        Memory.fetch(reader, np.arange(70))


def test_nonsense_is_refused(rolled_back: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one version"):
        vacuum(memory=rolled_back, keep_versions=0)
    with pytest.raises(UsageError, match="negative"):
        vacuum(memory=rolled_back, older_than=-DAY)
    with pytest.raises(UsageError, match="no memory here"):
        vacuum(memory=tmp_path / "nothing")
