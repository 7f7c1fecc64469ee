"""Commands that look and do not compute start at once: neither JAX nor Beam nor what they bring is imported.

Each runs as a process of its own, through the real entry point, and tells at its end which heavy modules it had and how
much processor time it took.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glimmer.pipelines.cli.group import COMMANDS

HEAVY = ("jax", "flax", "optax", "apache_beam", "tensorstore", "tensorflow_datasets", "tokenizers", "rich")
CPU_SECONDS = 2.0
"""A generous bound: these take 0.1 to 0.4 s, and with JAX and Beam 1 to 2.8 s on the same machine."""

_SPY = """
import atexit, json, os, sys
def tell():
    with open(os.environ["SPY"], "w") as file:
        json.dump([name for name in {heavy!r} if name in sys.modules], file)
atexit.register(tell)
from glimmer.pipelines.cli.program import main
main()
"""

HELP = [[command, "--help"] for command in COMMANDS]
WRONG = [["encode", "--wrong", "x"], ["encode"], ["nothing"], ["evaluate", "a", "b", "--ranks", "x"], []]
MISSING = ["inspect", "history", "verify", "compact", "vacuum"]


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory, kit: Any) -> Path:
    made: Path = kit.memory(tmp_path_factory.mktemp("light") / "m", 20, 5)
    return made


def heavy_modules(arguments: list[str], directory: Path, *, status: int | None = 0) -> list[str]:
    spy = directory / "spy.json"
    spy.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, "-c", _SPY.format(heavy=HEAVY), *arguments],
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "SPY": str(spy)},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert status is None or ended.returncode == status, ended.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < CPU_SECONDS
    found: list[str] = json.loads(spy.read_text())
    return found


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], *HELP], ids=" ".join)
def test_help_imports_no_job(arguments: list[str], tmp_path: Path) -> None:
    assert heavy_modules(arguments, tmp_path) == []


@pytest.mark.parametrize("arguments", WRONG, ids=lambda arguments: " ".join(arguments) or "nothing")
def test_a_wrong_command_line_imports_no_job(arguments: list[str], tmp_path: Path) -> None:
    assert heavy_modules(arguments, tmp_path, status=2) == []


@pytest.mark.parametrize(
    "arguments",
    [
        "inspect M",
        "history M",
        "diff M 1 2",
        "export M --output o",
        "tasks M --output t",
        "search M passage",
        "vacuum M --dry-run",
        "compact M",
        "rollback M --version 1",
    ],
)
def test_a_look_into_a_memory_computes_nothing(arguments: str, memory: Path, tmp_path: Path) -> None:
    assert heavy_modules([str(memory) if word == "M" else word for word in arguments.split()], tmp_path) == []


def test_evaluation_computes_nothing_on_a_device(tmp_path: Path) -> None:
    record = {"id": "1", "input": "q", "output": [{"answer": "a", "provenance": [{"wikipedia_id": "1"}]}]}
    (tmp_path / "gold.jsonl").write_text(json.dumps(record))
    assert heavy_modules(["evaluate", "gold.jsonl", "gold.jsonl"], tmp_path) == []


@pytest.mark.parametrize("command", MISSING)
def test_a_missing_memory_is_told_at_once(command: str, tmp_path: Path) -> None:
    assert heavy_modules([command, "nowhere"], tmp_path, status=1) == []
