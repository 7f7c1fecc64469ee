"""Ctrl-C and kill -9 at random moments of every job that writes: the real command, a real signal, then the same again.

After each: the memory opens and is whole, an interrupted command said so in one line with status 130, and the same
command ends with what an undisturbed one makes. GLIMMER_INTERRUPTIONS sets how many of each signal there are in all.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from glimmer.encoders.models import load_model
from glimmer.pipelines.cli.group import glimmer
from glimmer.storage.catalog import Catalog
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify

pytestmark = pytest.mark.slow

# A test run in the background of a script ignores SIGINT, and what it starts would inherit that.
DEFAULT_SIGNALS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
ENTRY = [sys.executable, "-c", f"{DEFAULT_SIGNALS}from glimmer.pipelines.cli.program import main; main()"]
LINE = "glimmer: interrupted; run the same command again to resume\n"
INTERRUPTED = "one line, status 130"
EACH = int(os.environ.get("GLIMMER_INTERRUPTIONS", "21"))
START_UP_S = 0.3
"""Python itself needs a tenth of a second, on a busy machine, until code of ours runs; a signal before is Python's."""

Tried = Callable[..., None]


@dataclass(frozen=True)
class Job:
    """A command as it is run in a directory that `prepare` filled, and what its result is."""

    arguments: tuple[str, ...]
    prepare: Callable[[Path, Path], None]
    result: Callable[[Path], str]


def content(memory: Path) -> str:
    """A digest of all ids, codes and texts of the newest version."""
    opened, total = Memory.open(memory), hashlib.sha256()
    where = np.arange(opened.passages)
    codes, lengths = opened.fetch(where)
    for passage, code, length in zip(opened.texts(where), codes, lengths, strict=True):
        total.update(f"{astuple(passage)!r}|{length}|".encode() + passage.tokens.tobytes() + code.tobytes())
    return f"version {opened.version} {total.hexdigest()}"


def run(directory: Path, *arguments: str) -> None:
    before = os.getcwd()
    try:
        os.chdir(directory)
        result = CliRunner().invoke(glimmer, list(arguments))
    finally:
        os.chdir(before)
    assert result.exit_code == 0, (arguments, result.output, result.exception)


def copy_of(*names: str) -> Callable[[Path, Path], None]:
    def prepare(world: Path, directory: Path) -> None:
        for name in names:
            source = world / name
            shutil.copytree(source, directory / "m") if source.is_dir() else shutil.copy(source, directory)

    return prepare


def in_memory(directory: Path) -> str:
    return content(directory / "m")


def predictions(directory: Path) -> str:
    return (directory / "p.jsonl").read_text()


def kept(directory: Path) -> str:
    """After a vacuum: the content, and the names of what is left of segments and versions."""
    names = sorted(path.name for path in (directory / "m/segments").iterdir())
    return f"{content(directory / 'm')} {names}"


def indexed(directory: Path) -> str:
    run(directory, "verify", "m")
    result = CliRunner().invoke(glimmer, ["search", str(directory / "m"), "the", "a", "of", "--json", "--top", "9"])
    return result.stdout.replace(str(directory), "")


def trained(directory: Path) -> str:
    model, total = load_model(directory / "reader"), hashlib.sha256()
    for name in sorted(model.tensors):
        total.update(name.encode() + model.tensors[name].tobytes())
    return total.hexdigest()


ANSWER = (
    "answer",
    "questions.jsonl",
    "--memory",
    "m",
    "--model",
    "../model",
    "--candidates",
    "4",
    "--output",
    "p.jsonl",
)
JOBS = {
    "encode": Job(
        ("encode", "corpus.jsonl", "--memory", "m", "--model", "../model"), copy_of("corpus.jsonl"), in_memory
    ),
    "encode pq": Job(
        ("encode", "corpus.jsonl", "--memory", "m", "--model", "../model", "--codec", "pq:bytes=6"),
        copy_of("corpus.jsonl"),
        in_memory,
    ),
    "refresh": Job(("refresh", "newer.jsonl", "--memory", "m"), copy_of("encoded", "newer.jsonl"), in_memory),
    "answer": Job(ANSWER, copy_of("encoded", "questions.jsonl"), predictions),
    "train": Job(("train", "--config", "train.toml"), copy_of("encoded", "gold.jsonl", "train.toml"), trained),
    "compact": Job(("compact", "m"), copy_of("refreshed"), in_memory),
    "vacuum": Job(("vacuum", "m", "--older-than", "0", "--keep-versions", "1"), copy_of("compacted"), kept),
    "index": Job(("index", "m"), copy_of("encoded"), indexed),
}
TOML = """
model = "../model"
memory = "m"
run = "run"
output = "reader"
steps = 4
[[tasks]]
name = "gold"
file = "gold.jsonl"
[data]
candidates = 2
select = 2
question_tokens = 16
answer_tokens = 8
[optimiser]
batch = 2
[checkpoints]
every = 1
"""


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Callable[..., Path],
    tiny_corpus: Callable[..., Path],
    tiny_questions: Callable[..., Path],
    tiny_gold: Callable[..., Path],
) -> Path:
    """Every state that a job starts from, and the model."""
    root = tmp_path_factory.mktemp("interruptions")
    tiny_model(root / "model", memory_layers=1, live_a=1, live_b=1, window=32)
    tiny_corpus(root / "corpus.jsonl", 300)
    tiny_corpus(root / "other.jsonl", 300, seed=1)
    lines = (root / "corpus.jsonl").read_text().splitlines()
    new = (root / "other.jsonl").read_text().splitlines()
    (root / "newer.jsonl").write_text("\n".join(lines[:180] + new[180:]) + "\n")
    tiny_questions(root / "questions.jsonl", 40)
    run(root, "encode", "corpus.jsonl", "--memory", "encoded", "--model", "model")
    for name, before in (("refreshed", "encoded"), ("compacted", "refreshed")):
        shutil.copytree(root / before, root / name)
        run(root, *(("refresh", "newer.jsonl", "--memory", name) if name == "refreshed" else ("compact", name)))
    tiny_gold(Memory.open(root / "encoded"), root / "gold.jsonl", 0, 8)
    (root / "train.toml").write_text(TOML)
    return root


class Trials:
    """One job, disturbed again and again."""

    def __init__(self, name: str, world: Path) -> None:
        self.job, self._world, self._name = JOBS[name], world, name
        self.outcomes: Counter[tuple[str, str]] = Counter()
        undisturbed = self._fresh("undisturbed")
        begun = time.monotonic()
        process = self._start(undisturbed)
        _, errors = process.communicate(timeout=300)
        self._seconds = time.monotonic() - begun
        assert process.returncode == 0, errors
        self._expected = self.job.result(undisturbed)

    def _fresh(self, name: str) -> Path:
        directory = self._world / f"{self._name}-{name}"
        directory.mkdir()
        self.job.prepare(self._world, directory)
        return directory

    def _start(self, directory: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*ENTRY, *self.job.arguments], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def disturb(self, number: int, sign: signal.Signals) -> Path:
        """Sends the signal at a random moment; returns the directory, for `finish`."""
        directory = self._fresh(f"{sign.name}-{number}")
        process = self._start(directory)
        time.sleep(random.Random(f"{self._name}/{sign}/{number}").uniform(START_UP_S, self._seconds))
        process.send_signal(sign)
        begun = time.monotonic()
        _, errors = process.communicate(timeout=60)
        took = time.monotonic() - begun
        status = process.returncode
        if status == 0:
            outcome = "had ended"
        elif sign == signal.SIGINT:
            assert (status, errors.endswith(LINE), "Traceback" in errors) == (130, True, False), (status, errors)
            assert errors.count(LINE) == 1
            assert took < 5
            outcome = INTERRUPTED
        else:
            assert status == -signal.SIGKILL
            outcome = "killed"
        self.outcomes[sign.name, outcome] += 1
        return directory

    def finish(self, directory: Path) -> None:
        """The memory is whole, and the same command ends with the undisturbed result."""
        memory = directory / "m"
        if Catalog(memory).exists:
            assert verify(memory).damages == []
        run(directory, *self.job.arguments)
        assert self.job.result(directory) == self._expected
        shutil.rmtree(directory)


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.timeout(3600)
def test_interrupted_at_any_moment_it_says_so_and_the_same_command_ends_it(
    name: str, world: Path, tried: Tried
) -> None:
    trials = Trials(name, world)
    share = -(-EACH // len(JOBS))
    plans: list[Any] = [(number, sign) for number in range(share) for sign in (signal.SIGINT, signal.SIGKILL)]
    with ThreadPoolExecutor(2) as pool:
        for directory in pool.map(lambda plan: trials.disturb(*plan), plans):
            trials.finish(directory)
    assert trials.outcomes["SIGINT", INTERRUPTED] > 0
    assert trials.outcomes["SIGKILL", "killed"] > 0
    for (sign, outcome), times in trials.outcomes.items():
        tried(f"{sign} at a random moment: {name}", f"{outcome}; the same command then ends as undisturbed", times)
