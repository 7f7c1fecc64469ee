"""Rollback: an earlier version again, as a new one; it can be undone, and what cannot be shown again is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from glimmer import DamageError, UsageError
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.encode import encode
from glimmer.pipelines.maintenance.rollback import rollback
from glimmer.pipelines.refresh import refresh
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"id": f"a{i}", "title": "T", "text": t}) + "\n" for i, t in enumerate(texts)))
    return str(path)


@pytest.fixture(scope="module")
def made(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions: of texts "one" and "two", then of "one" and "three"."""
    home = tmp_path_factory.mktemp("rollback")
    model = tiny_model(home / "model", with_decoder=False)
    encode(sources=[write(home / "1.jsonl", ["one", "two"])], memory=home / "m", model=str(model))
    refresh(sources=[write(home / "2.jsonl", ["one", "three"])], memory=home / "m")
    return home / "m"


@pytest.fixture
def memory(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "m"))


def texts(path: Path, version: int | None = None) -> set[str]:
    opened = Memory.open(path, version)
    opened.fetch(np.arange(opened.passages))
    return {passage.text for passage in opened.texts(np.arange(opened.passages))}


def test_an_earlier_version_is_shown_again_as_a_new_one(memory: Path) -> None:
    result = rollback(memory=memory, to=1)
    manifest = Memory.open(memory).manifest
    assert (result.version, manifest.version, manifest.operation) == (3, 3, "rollback")
    assert texts(memory) == {"one", "two"}
    assert texts(memory, 2) == {"one", "three"}
    assert manifest.content_sha256 == Memory.open(memory, 1).manifest.content_sha256
    assert verify(memory).sound


def test_a_rollback_can_be_rolled_back(memory: Path) -> None:
    rollback(memory=memory, to=1)
    assert rollback(memory=memory, to=2).version == 4
    assert texts(memory) == {"one", "three"}
    assert rollback(memory=memory, to=3).version == 5
    assert texts(memory) == {"one", "two"}


def test_the_empty_memory_can_be_had_back(memory: Path) -> None:
    assert rollback(memory=memory, to=0).passages == 0
    assert Memory.open(memory).articles == 0
    assert refresh(sources=[write(memory.parent / "3.jsonl", ["four"])], memory=memory).version == 4
    assert texts(memory) == {"four"}


@pytest.mark.parametrize(("to", "says"), [(2, "is the newest version"), (7, "does not exist")])
def test_a_version_that_cannot_be_meant_is_refused(to: int, says: str, memory: Path) -> None:
    with pytest.raises(UsageError, match=says):
        rollback(memory=memory, to=to)
    assert Memory.open(memory).version == 2


def test_what_the_newest_version_holds_already_is_not_committed_again(memory: Path) -> None:
    rollback(memory=memory, to=1)
    again = rollback(memory=memory, to=1)
    assert (again.nothing_to_do, again.version) == (True, 3)
    assert Memory.open(memory).version == 3


def test_a_version_whose_files_are_gone_is_refused(memory: Path) -> None:
    first = Memory.open(memory, 1)
    [segment] = first.segments
    shard = next((memory / "segments" / segment / "codes").glob("c.*"))
    shard.rename(memory.parent / "kept")
    with pytest.raises(DamageError, match="missing"):
        rollback(memory=memory, to=1)
    (memory.parent / "kept").rename(shard)
    for file in first.manifest.files:
        (memory / "passages" / file.name).unlink(missing_ok=True)
    with pytest.raises(UsageError, match="vacuumed"):
        rollback(memory=memory, to=1)
    assert texts(memory) == {"one", "three"}


def test_the_command_names_both_versions(memory: Path) -> None:
    command = ["rollback", str(memory), "--version", "1"]
    done = CliRunner().invoke(glimmer, command)
    assert "version 3 holds what version 1 held: 2 passages" in done.stdout
    again = CliRunner().invoke(glimmer, [*command, "--json"])
    assert json.loads(again.stdout)["nothing_to_do"] is True
    back = CliRunner().invoke(glimmer, ["rollback", str(memory), "--version", "2", "--json"])
    assert json.loads(back.stdout)["version"] == 4
