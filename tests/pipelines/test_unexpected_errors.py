"""An exception that is not ours is one line with its type and where to report it; the traceback waits for --debug."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glimmer.pipelines.cli.group import run
from glimmer.pipelines.encoding import shard_graph as shards


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path], tiny_corpus: Callable[..., Path]
) -> Path:
    directory = tmp_path_factory.mktemp("unexpected")
    tiny_model(directory / "model", memory_layers=1, live_a=1, live_b=1)
    tiny_corpus(directory / "corpus.jsonl", 10)
    return directory


def broken(*_: object, **__: object) -> None:
    raise ZeroDivisionError("a mistake\nof ours")


@pytest.mark.parametrize("debug", [False, True])
def test_a_mistake_inside_a_beam_step_is_one_line(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], debug: bool
) -> None:
    monkeypatch.setattr(shards, "ShardEncoder", broken)
    arguments = [
        "encode",
        str(world / "corpus.jsonl"),
        "--memory",
        str(tmp_path / "m"),
        "--model",
        str(world / "model"),
    ]
    assert run([*arguments, *(["--debug"] if debug else [])]) == 70
    shown = capfd.readouterr().err
    [line] = [line for line in shown.splitlines() if line.startswith("glimmer: ")]
    assert line.startswith("glimmer: internal error: ZeroDivisionError: a mistake of ours")
    assert "report it" in line
    assert "--debug" in line
    assert ("Traceback" in shown) == debug


def test_a_wrong_command_line_is_one_line_and_names_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["encode", "--codec", "mp3", "x"]) == 2
    shown = capfd.readouterr().err
    assert len(shown.splitlines()) == 1
    assert "glimmer encode --help" in shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    code = "from glimmer.pipelines.cli.program import main; main()"
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", code, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "glimmer: error: standard output cannot be written: No space left on device\n"


def test_without_arguments_the_help_is_shown_as_it_is_laid_out(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("Usage: glimmer")
    assert any(line.startswith("  encode ") for line in lines)


def test_a_reader_that_has_enough_ends_the_command_without_a_word() -> None:
    code = "from glimmer.pipelines.cli.program import main; main()"
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-c", code, "--help"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")
