"""A link inside a memory leads to somebody's files: nothing that deletes ever follows one."""

from __future__ import annotations

import datetime
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glimmer import DamageError
from glimmer.pipelines.cli.group import run
from glimmer.pipelines.jobs import segment_id
from glimmer.pipelines.maintenance.rollback import rollback
from glimmer.pipelines.maintenance.vacuum import vacuum
from glimmer.storage.ledger import Ledger
from glimmer.storage.memory import Memory
from glimmer.storage.memory import rollback as commit_rollback
from glimmer.storage.removal import remove_file, remove_tree

NOW = datetime.timedelta(0)
TOP = ("codec", "passages", "passages/_delta_log", "segments", "indexes", "jobs")


def age(path: Path, days: float = 300) -> None:
    """Makes everything in the tree at `path` so old."""
    then = time.time() - days * 86400
    for each in (path, *path.rglob("*")):
        os.utime(each, (then, then), follow_symlinks=False)


def everything(path: Path) -> dict[str, bytes | None]:
    """Relative path -> content, None for a directory, of all that lies below `path`; links are followed."""
    found: dict[str, bytes | None] = {}
    for folder, _, files in os.walk(path, followlinks=True):
        found[os.path.relpath(folder, path)] = None
        found |= {os.path.relpath(os.path.join(folder, f), path): Path(folder, f).read_bytes() for f in files}
    return found


@pytest.fixture
def memory(kit: Any, tmp_path: Path) -> Path:
    """Version 3 shows version 1 again, so that version 2's own segment, catalog file and index may go."""
    made: Path = kit.memory(tmp_path / "m", 40, 30)
    commit_rollback(made, to=1, base=2, job="undo")
    (made / "codec").mkdir(exist_ok=True)
    return made


def move_and_link(memory: Path, name: str) -> Path:
    """Moves a directory of the memory out of it and puts a link in its place; returns where it is now."""
    outside = memory.parent / "outside"
    shutil.move(memory / name, outside)
    (memory / name).symlink_to(outside)
    return outside


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("name", TOP)
def test_a_vacuum_refuses_a_memory_with_a_linked_directory_before_it_deletes_anything(
    name: str, dry_run: bool, memory: Path
) -> None:
    Ledger(memory, "job-0").write_plan({})
    (memory / ".tmp-leftover").write_bytes(b"x")
    age(memory)
    move_and_link(memory, name)
    before = everything(memory)
    with pytest.raises(DamageError, match=rf"m/{name}: a link, and nothing is deleted through a link"):
        vacuum(memory=memory, older_than=NOW, keep_versions=1, dry_run=dry_run)
    assert everything(memory) == before


@pytest.mark.parametrize("name", ["segments", "jobs"])
def test_somebodys_files_with_the_names_of_old_segments_and_jobs_survive(name: str, memory: Path) -> None:
    """As the attack goes: the memory of a stranger, in which a link leads to a directory full of directories."""
    home = memory.parent / "home"
    for project in ("letters", "photos"):
        (home / project).mkdir(parents=True)
        (home / project / "mine").write_text("dear")
    age(home)
    shutil.rmtree(memory / name, ignore_errors=True)
    (memory / name).symlink_to(home)
    assert run(["vacuum", str(memory), "--older-than", "0d", "--keep-versions", "1"]) == 1
    assert (home / "letters" / "mine").read_text() == (home / "photos" / "mine").read_text() == "dear"


def test_the_command_says_so_in_one_line(memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    move_and_link(memory, "segments")
    assert run(["vacuum", str(memory)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("glimmer: error: ")
    assert f"{memory}/segments: a link" in line


def test_a_link_to_the_whole_memory_is_followed(memory: Path) -> None:
    link = memory.parent / "current"
    link.symlink_to(memory)
    age(memory)
    assert vacuum(memory=link, older_than=NOW, keep_versions=1).segments == 1
    assert Memory.open(link).passages == 40


def test_links_deeper_down_are_left_alone_or_go_as_links(memory: Path) -> None:
    outside = memory.parent / "outside"
    outside.mkdir()
    (outside / "mine").write_text("dear")
    (memory / "segments" / "linked").symlink_to(outside)
    (memory / "jobs").mkdir(exist_ok=True)
    (memory / "jobs" / "encode-00").symlink_to(outside)
    (memory / "indexes" / "0").symlink_to(outside)
    (memory / "segments" / "seg-job-1" / "inside").symlink_to(outside)
    (memory / "segments" / "seg-job-0" / "text" / ".tmp-linked").symlink_to(outside)
    age(memory)
    vacuum(memory=memory, older_than=NOW, keep_versions=1)
    assert (outside / "mine").read_text() == "dear"
    assert not (memory / "segments" / "seg-job-1").exists()


@pytest.mark.parametrize("name", ["segments", "jobs", "indexes", "passages"])
def test_jobs_refuse_a_memory_with_a_linked_directory(name: str, memory: Path) -> None:
    (memory / name).mkdir(exist_ok=True)
    move_and_link(memory, name)
    before = everything(memory)
    jobs: list[Callable[[], object]] = [
        lambda: rollback(memory=memory, to=2),
        lambda: commit_rollback(memory, to=2, base=3, job="redo"),
    ]
    for job in jobs:
        with pytest.raises(DamageError, match=f"m/{name}: a link"):
            job()
    with pytest.raises(DamageError, match=f"m/{name}: a link"), Ledger(memory, "encode-00").lock():
        pass
    assert everything(memory) == before


def test_a_job_does_not_drop_a_segment_through_a_link(memory: Path) -> None:
    """What a job deletes has a name that follows from its inputs, so a stranger can foresee it."""
    job = "refresh-0123456789abcdef"
    outside = move_and_link(memory, "segments")
    (outside / segment_id(job)).mkdir()
    (outside / segment_id(job) / "mine").write_text("dear")
    with pytest.raises(DamageError, match="segments: a link"):
        remove_tree(memory / "segments" / segment_id(job), within=memory)
    with pytest.raises(DamageError, match="segments: a link"):
        remove_file(memory / "segments" / segment_id(job) / "mine", within=memory)
    assert (outside / segment_id(job) / "mine").read_text() == "dear"


def test_a_directory_that_is_itself_a_link_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "m" / "x").symlink_to(tmp_path / "outside")
    with pytest.raises(DamageError, match="x: a link"):
        remove_tree(tmp_path / "m" / "x", within=tmp_path / "m")
    remove_file(tmp_path / "m" / "x", within=tmp_path / "m")
    assert not (tmp_path / "m" / "x").is_symlink(), "a link is a file, and goes without what it points to"
    assert (tmp_path / "outside").is_dir()


def test_a_directory_that_becomes_a_link_while_it_is_emptied_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the deletion somebody swaps the directory for a link; what was opened is what is emptied."""
    inside, outside = tmp_path / "m" / "segments", tmp_path / "outside"
    for place in (inside, outside):
        (place / "seg").mkdir(parents=True)
        (place / "seg" / "file").write_text("x")
    rename = os.rename

    def swap(*names: Any, **descriptors: Any) -> None:
        rename(inside, tmp_path / "m" / "moved")
        inside.symlink_to(outside)
        rename(*names, **descriptors)

    monkeypatch.setattr(os, "rename", swap)
    remove_tree(inside / "seg", within=tmp_path / "m")
    assert (outside / "seg" / "file").exists()
    assert not list((tmp_path / "m" / "moved").iterdir())


def test_what_is_not_there_is_deleted_already(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    remove_tree(tmp_path / "m" / "segments" / "seg", within=tmp_path / "m")
    remove_file(tmp_path / "m" / "jobs" / "plan.json", within=tmp_path / "m")
    remove_file(tmp_path / "absent" / "plan.json", within=tmp_path / "absent")
