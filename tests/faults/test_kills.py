"""kill -9 at any moment of a memory's life: it opens at the old version or the new one, and the same job finishes it.

Each trial is a real process killed with SIGKILL, at a step drawn from all its file-system calls or at a random time
(which also falls inside the native writers), often killed again while it goes on, and then let finish.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Tried = Callable[..., None]
ZYGOTE = Path(__file__).with_name("zygote.py")
# scenario -> (kills at steps, kills at times, version before, version after, whether it begins damaged)
PLAN: dict[str, tuple[int, int, int, int, bool]] = {
    "plan, encode, commit": (160, 25, -1, 1, False),
    "refresh": (260, 35, 1, 2, False),
    "compaction": (240, 35, 3, 4, False),
    "vacuum": (160, 20, 3, 3, False),
    "rollback": (80, 15, 2, 3, False),
    "repair": (100, 15, 2, 2, True),
}


class Zygote:
    """The warm process; one request at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore", str(ZYGOTE)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline())["ready"]

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        reply: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "error" not in reply, reply["error"]
        return reply

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


@pytest.fixture(scope="module")
def zygotes() -> Iterator[list[Zygote]]:
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: Zygote(), range(2)))
    yield made
    for zygote in made:
        zygote.close()


class Trials:
    """Many kills of one scenario, shared out to the zygotes."""

    def __init__(self, name: str, place: Path, zygotes: list[Zygote]) -> None:
        self._name, self._place = name, place
        _, _, self._before, self._after, self._damaged = PLAN[name]
        self._original, whole = place / "original", place / "whole"
        zygotes[0].ask(do="prepare", scenario=name, memory=str(self._original))
        self._copy(whole)
        ran = zygotes[0].ask(do="run", scenario=name, memory=str(whole))
        self.steps, self._seconds = ran["steps"], ran["seconds"]
        self._expected = {self._after: self._look(zygotes[0], whole)["content"]}
        if not self._damaged:
            self._expected.setdefault(self._before, self._look(zygotes[0], self._original)["content"])
        self.kills: Counter[str] = Counter()
        self._lock = threading.Lock()

    def _copy(self, target: Path) -> None:
        if self._original.exists():
            shutil.copytree(self._original, target, symlinks=True)

    def _look(self, zygote: Zygote, memory: Path) -> dict[str, Any]:
        return zygote.ask(do="look", scenario=self._name, memory=str(memory))

    def run(self, zygotes: list[Zygote], timed: bool, kills: int) -> None:
        left = iter(range(10 * kills))

        def work(zygote: Zygote) -> None:
            while self.kills["timed" if timed else "at a step"] < kills:
                with self._lock:
                    number = next(left)
                self._trial(zygote, number, timed)

        with ThreadPoolExecutor(len(zygotes)) as pool:
            list(pool.map(work, zygotes))

    def _trial(self, zygote: Zygote, number: int, timed: bool) -> None:
        dice = random.Random(f"{self._name}/{timed}/{number}")
        memory = self._place / f"{'timed' if timed else 'step'}-{number}"
        self._copy(memory)
        for _ in range(dice.choice((1, 1, 2, 3))):
            how: dict[str, Any] = (
                {"delay": dice.uniform(0, self._seconds)} if timed else {"die_at": 1 + dice.randrange(self.steps)}
            )
            reply = zygote.ask(do="run", scenario=self._name, memory=str(memory), **how)
            if not reply["killed"]:
                break  # what was left to do took fewer steps
            with self._lock:
                self.kills["timed" if timed else "at a step"] += 1
            self._check(self._look(zygote, memory), how)
        zygote.ask(do="run", scenario=self._name, memory=str(memory))
        end = self._look(zygote, memory)
        assert (end["version"], end["content"], end["damages"]) == (self._after, self._expected[self._after], [])
        shutil.rmtree(memory, ignore_errors=True)

    def _check(self, seen: dict[str, Any], how: dict[str, Any]) -> None:
        if self._damaged:
            # The damage is still there and refused, or gone; never half of it read as if it were whole.
            assert seen["version"] == self._before, (how, seen)
            good = seen["content"] == self._expected[self._after] or seen["damages"]
            assert good, (how, seen)
            assert seen["content"].startswith("refused") or seen["content"] == self._expected[self._after], (how, seen)
            return
        assert seen["damages"] == [], (how, seen)
        allowed = {self._before, self._after} | ({0} if self._before < 0 else set())
        assert seen["version"] in allowed, (how, seen)
        if seen["version"] != 0:
            assert seen["content"] == self._expected[seen["version"]], (how, seen)


@pytest.mark.parametrize("name", PLAN)
def test_killed_anywhere_it_is_the_old_version_or_the_new_and_goes_on(
    name: str, zygotes: list[Zygote], tmp_path: Path, tried: Tried
) -> None:
    trials = Trials(name, tmp_path, zygotes)
    at_steps, at_times, *_ = PLAN[name]
    trials.run(zygotes, False, at_steps)
    trials.run(zygotes, True, at_times)
    assert trials.steps >= 15
    for how, times in trials.kills.items():
        tried(f"kill -9 {how}: {name}", "old or new version, sound; run again it ends as undisturbed", times)
