"""Ctrl-C at any moment: one line, status 130, at once, and the same command then ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# A test run in the background of a script ignores SIGINT, and what it starts would inherit that.
DEFAULT_SIGNALS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
ENTRY = [sys.executable, "-c", f"{DEFAULT_SIGNALS}from glimmer.pipelines.cli.program import main; main()"]
LINE = "glimmer: interrupted; run the same command again to resume\n"
ENDING_TIME_S = 1.5  # from the signal to the end, on a busy machine


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([*ENTRY, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def interrupted(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[str, float]:
    """Sends the signal; what was on standard error, and how long the process took to end."""
    begun = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return errors, time.monotonic() - begun


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path], tiny_corpus: Callable[..., Path]
) -> Path:
    directory = tmp_path_factory.mktemp("interrupted")
    tiny_model(directory / "model", memory_layers=1, live_a=1, live_b=1)
    tiny_corpus(directory / "corpus.jsonl", 400)
    return directory


def encode(world: Path, memory: Path) -> subprocess.Popen[str]:
    return start("encode", world / "corpus.jsonl", "--model", world / "model", "--memory", memory)


@pytest.mark.parametrize("delay", [0.3, 0.9, 1.8, 2.6])
def test_an_interrupted_encode_says_so_in_one_line_and_leaves_at_once(
    world: Path, tmp_path: Path, delay: float
) -> None:
    process = encode(world, tmp_path / "m")
    time.sleep(delay)
    if process.poll() is not None:
        pytest.skip(f"the job had ended within {delay} s")
    errors, seconds = interrupted(process)
    assert process.returncode == 130
    assert errors.endswith(LINE)
    assert "Traceback" not in errors
    assert seconds < ENDING_TIME_S


def test_the_same_command_resumes_after_an_interruption(world: Path, tmp_path: Path) -> None:
    process = encode(world, tmp_path / "m")
    time.sleep(1.5)
    interrupted(process)
    again = encode(world, tmp_path / "m")
    output, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "version 1" in output


def test_termination_is_the_same_with_its_own_status(world: Path, tmp_path: Path) -> None:
    process = encode(world, tmp_path / "m")
    time.sleep(1)
    errors, _ = interrupted(process, signal.SIGTERM)
    assert process.returncode == 143
    assert errors.endswith("glimmer: terminated; run the same command again to resume\n")


def test_a_signal_that_the_parent_ignores_stays_ignored(world: Path, tmp_path: Path) -> None:
    """As under nohup, or for the background jobs of a script."""
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *ENTRY[:2]]
    command += ["from glimmer.pipelines.cli.program import main; main()", "inspect", str(tmp_path / "none")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    time.sleep(0.2)
    errors, _ = interrupted(process)
    assert process.returncode == 1
    assert "no memory here" in errors


def test_an_interruption_removes_the_copy_of_standard_input(world: Path, tmp_path: Path) -> None:
    directory = tmp_path / "scratch"
    directory.mkdir()
    process = subprocess.Popen(
        [*ENTRY, "encode", "-", "--model", str(world / "model"), "--memory", str(tmp_path / "m")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(directory)},
    )
    assert process.stdin is not None
    process.stdin.write('{"id": "1", "text": "words"}\n')
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while not list(directory.glob("glimmer-input-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(directory.glob("glimmer-input-*"))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    process.stdin.close()
    assert list(directory.glob("glimmer-input-*")) == []
