"""Several processes and the index of one version: each opens a whole one or builds it, whoever puts theirs in place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from glimmer.reader.serving.retrieval import Bm25Index, build_index
from glimmer.reader.serving.retrieval_index import index_manifest, open_index
from glimmer.storage.memory import Memory

QUESTION = "passage 7 façade"
SCRIPT = """
import json, random, shutil, sys
from glimmer.reader.serving.retrieval_index import DIRECTORY, open_index
from glimmer.storage.memory import Memory

memory, role, rounds, seed = Memory.open(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance, found, said = random.Random(seed), [], []
for number in range(rounds):
    if role == "deletes" and chance.random() < 0.3:
        shutil.rmtree(memory.store.local_path(f"{memory.index_key}/{DIRECTORY}"), ignore_errors=True)
    index = open_index(memory, rebuild=role == "rebuilds")
    (hits,) = index.search([sys.argv[5]], 5)
    found.append(hits.positions.tolist())
    said.append(index.directory.is_relative_to(memory.location))
print(json.dumps([found, said]))
"""


@pytest.fixture
def memory(kit: Any, tmp_path: Path) -> Path:
    return Path(kit.memory(tmp_path / "m", 40))


def race(memory: Path, roles: list[str], rounds: int) -> tuple[list[list[int]], list[bool]]:
    """Runs a process for each role, all at once; what they found, and whether in the memory, of all together."""
    environment = os.environ | {"GLIMMER_CACHE": str(memory.parent / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(memory), role, str(rounds), str(seed), QUESTION],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for seed, role in enumerate(roles)
    ]
    found, inside = [], []
    for process in processes:
        out, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        theirs = json.loads(out)
        found += theirs[0]
        inside += theirs[1]
    return found, inside


def expected(memory: Path) -> list[int]:
    found: list[int] = open_index(Memory.open(memory)).search([QUESTION], 5)[0].positions.tolist()
    return found


def test_processes_that_replace_and_open_at_once_all_find_the_same(memory: Path) -> None:
    found, inside = race(memory, ["rebuilds", "rebuilds", "opens"], 40)
    assert found == [expected(memory)] * 40 * 3
    assert sum(inside) > 0.9 * len(inside)
    assert not list(memory.glob("indexes/1/.bm25.*")), "something was left behind"


@pytest.mark.slow
def test_two_thousand_operations_at_once_all_succeed(memory: Path) -> None:
    found, _ = race(memory, ["rebuilds", "deletes", "opens", "opens"], 500)
    assert found == [expected(memory)] * 2000


@pytest.mark.slow
@pytest.mark.parametrize("roles", [["opens"] * 4, ["deletes", "deletes", "opens", "opens"]])
def test_processes_that_find_none_at_once_all_build_the_same(memory: Path, roles: list[str]) -> None:
    found, _ = race(memory, roles, 60)
    assert found == [expected(memory)] * 60 * len(roles)


def test_an_index_that_is_missing_for_a_moment_is_waited_for(memory: Path) -> None:
    """Between two renames there is none: the one before has made way, and the next is not there yet."""
    opened = Memory.open(memory)
    place = open_index(opened).directory
    old = place.with_name(".bm25.0123456789ab.old")
    place.rename(old)
    timer = threading.Timer(0.1, lambda: old.rename(place))
    timer.start()
    assert Bm25Index.open(place, index_manifest(opened)).count == 40
    timer.join()


def test_what_a_killed_process_left_in_between_is_not_waited_for_long(memory: Path) -> None:
    opened = Memory.open(memory)
    place = open_index(opened).directory
    place.rename(place.with_name(".bm25.0123456789ab.old"))
    assert open_index(opened).directory == place


def test_who_comes_second_with_the_same_index_leaves_the_first_in_place(tmp_path: Path) -> None:
    def passages() -> Any:
        yield ("1", "Cats", "cats")
        build_index(tmp_path / "bm25", [("1", "Cats", "cats"), ("2", "Dogs", "dogs")], {"a": 1})
        first.append((tmp_path / "bm25").stat().st_ino)
        yield ("2", "Dogs", "dogs")

    first: list[int] = []
    build_index(tmp_path / "bm25", passages(), {"a": 1})
    assert [(tmp_path / "bm25").stat().st_ino] == first
    assert [path.name for path in tmp_path.iterdir()] == ["bm25"]


def test_who_comes_second_with_another_index_replaces_it(tmp_path: Path) -> None:
    def passages() -> Any:
        build_index(tmp_path / "bm25", [("1", "Dogs", "dogs")], {"a": 1}, language="german")
        yield ("1", "Dogs", "dogs")

    build_index(tmp_path / "bm25", passages(), {"a": 1}, language="english")
    assert Bm25Index.open(tmp_path / "bm25", {"a": 1}).language == "english"
