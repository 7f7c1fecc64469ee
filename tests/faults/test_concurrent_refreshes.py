"""Processes that refresh one memory at the same time: every commit that was reported stays, whoever came in between.

Each process brings one small feed after another, and runs a refresh again for as long as it ends with a conflict, as
its message says. GLIMMER_REFRESHES=10 has each process bring ten feeds instead of the three of a usual run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from changing import payload, texts, write

from glimmer.pipelines.encode import encode
from glimmer.storage.memory import Memory
from glimmer.storage.stores import open_store
from glimmer.storage.verify import verify

pytestmark = pytest.mark.slow

PROCESSES = 4
FEEDS = int(os.environ.get("GLIMMER_REFRESHES", "3"))
REFRESHER = """
import sys
from glimmer import ConflictError
from glimmer.pipelines.refresh import refresh

memory, *feeds = sys.argv[1:]
for feed in feeds:
    conflicts = 0
    while True:
        try:
            result = refresh(sources=[feed], memory=memory, partial=True)
        except ConflictError:
            conflicts += 1
        else:
            print(result.version, conflicts, flush=True)
            break
"""


def feed(process: int, number: int) -> dict[str, list[str]]:
    """An article that is new, and the newest text of one that the process changes with each of its feeds."""
    return {
        f"new-{process}-{number}": [f"What process {process} says in its feed {number}.", "It has two paragraphs."],
        f"a{process}": [f"The text that process {process} gave it with feed {number}."],
    }


@pytest.mark.parametrize("kind", ["on disk", "in a bucket"])
def test_no_commit_is_lost(
    kind: str,
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    tried: Callable[..., None],
    request: pytest.FixtureRequest,
) -> None:
    place = request.getfixturevalue("new_bucket_place")() if kind == "in a bucket" else str(tmp_path / "memory")
    model = str(tiny_model(tmp_path / "model", with_decoder=False))
    corpus = texts(20)
    encode(sources=[write(tmp_path / "corpus.jsonl", corpus)], memory=place, model=model)
    processes = []
    for process in range(PROCESSES):
        feeds = [write(tmp_path / f"feed-{process}-{n}.jsonl", feed(process, n)) for n in range(FEEDS)]
        command = [sys.executable, "-c", REFRESHER, place, *map(str, feeds)]
        path = os.pathsep.join(path for path in sys.path if path)
        environment = os.environ | {"PYTHONPATH": path, "GLIMMER_CACHE": str(tmp_path / f"cache-{process}")}
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=800) for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, [errors[-2000:] for _, errors in said]
    reported = [tuple(map(int, line.split())) for output, _ in said for line in output.splitlines()]
    assert sorted(version for version, _ in reported) == list(range(2, PROCESSES * FEEDS + 2))

    assert verify(place).sound
    assert Memory.open(place).version == PROCESSES * FEEDS + 1
    for process in range(PROCESSES):
        for number in range(FEEDS):
            corpus |= feed(process, number)
    whole = tmp_path / "whole"
    encode(sources=[write(tmp_path / "whole.jsonl", corpus)], memory=whole, model=model)
    assert payload(place) == payload(whole)
    store = open_store(place)
    assert len(store.names("segments")) == PROCESSES * FEEDS + 1, "what a conflict ended was deleted"
    assert not [entry.key for entry in store.entries("jobs") if entry.kind == "directory"]
    conflicts = sum(count for _, count in reported)
    tried(
        f"refreshes at once, {kind}",
        f"no commit is lost ({conflicts} ended with a conflict and ran again)",
        len(reported),
    )
