"""`glimmer ask`: one question, questions from a pipe, questions typed at a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import glimmer
from glimmer.pipelines.cli.group import glimmer as command

COMMAND = [sys.executable, "-c", "from glimmer.pipelines.cli.program import main; main()", "ask"]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Callable[..., Path], tiny_model: Callable[..., Path]
) -> Path:
    home = tmp_path_factory.mktemp("ask")
    model = tiny_model(home / "model", window=48)
    glimmer.encode(
        sources=[str(tiny_corpus(home / "c.jsonl", 20))], memory=home / "memory", model=str(model), passage_words=16
    )
    return home


@pytest.fixture(scope="module")
def title(world: Path) -> str:
    memory = glimmer.open_memory(world / "memory")
    return memory[next(iter(memory))].title


def ask(world: Path, *arguments: str, typed: str = "") -> Result:
    line = ["ask", str(world / "memory"), *arguments, "--candidates", "8", "--select", "3"]
    return CliRunner().invoke(command, line, input=typed, catch_exceptions=False)


def test_an_answer_its_page_and_its_sentence(world: Path, title: str) -> None:
    answer, page, sentence = ask(world, *title.split()).stdout.splitlines()
    assert answer
    assert page.startswith("  ")
    assert page.endswith(")")
    assert f"**{answer}**" in sentence


def test_questions_come_one_a_line_from_a_pipe(world: Path, title: str) -> None:
    one = ask(world, *title.split()).stdout
    assert ask(world, typed=f"{title}\n\n  {title}\nqqqq").stdout == (
        f"{one}\n{one}\nno answer: no word of the question stands in the memory\n"
    )
    assert ask(world, typed="").stdout == ""


def test_json_lines(world: Path, title: str) -> None:
    first, second = map(json.loads, ask(world, "--json", typed=f"{title}\nqqqq\n").stdout.splitlines())
    assert first["question"] == title
    assert first["quote"]["passage_id"] in [passage["passage_id"] for passage in first["passages"]]
    assert (second["answer"], second["quote"], second["passages"]) == ("", None, [])


def test_each_line_of_a_pipe_is_answered_as_it_comes(world: Path, title: str) -> None:
    with subprocess.Popen(
        [*COMMAND, str(world / "memory"), "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(f"{title}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["question"] == title
        process.stdin.close()
        assert process.wait() == 0


@pytest.mark.parametrize("end", ["end of file", "Ctrl-C"])
def test_a_terminal_gets_a_prompt_and_is_left_in_peace(world: Path, title: str, end: str) -> None:
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, str(world / "memory")], stdin=other, stdout=other, stderr=other, start_new_session=True
    )
    os.close(other)
    shown = _read_until(terminal, b"question> ")
    os.write(terminal, title.encode() + b"\n")
    shown += _read_until(terminal, b"question> ")
    assert b"\x1b[1m" in shown, "the answer is bold in its sentence"
    if end == "Ctrl-C":
        process.send_signal(signal.SIGINT)
    else:
        os.write(terminal, b"\x04")
    rest = _read_until(terminal, None)
    os.close(terminal)
    assert process.wait(60) == 0
    assert b"Traceback" not in rest
    assert b"interrupted" not in rest


def _read_until(terminal: int, mark: bytes | None) -> bytes:
    """What is shown until `mark`, or until the process ends."""
    shown, end = b"", time.monotonic() + 120
    while time.monotonic() < end and (mark is None or mark not in shown):
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                part = os.read(terminal, 4096)
            except OSError:  # how Linux says that the other end is closed
                return shown
            if not part:
                return shown
            shown += part
    assert mark is None or mark in shown, shown
    return shown


def test_a_memory_whose_reader_is_not_known(tmp_path: Path, tiny_corpus: Callable[..., Path], kit: object) -> None:
    kit.memory(tmp_path / "m", 3)  # type: ignore[attr-defined]
    result = CliRunner().invoke(command, ["ask", str(tmp_path / "m"), "text"])
    assert isinstance(result.exception, glimmer.UsageError)
    assert "name a model directory with a decoder" in str(result.exception)
