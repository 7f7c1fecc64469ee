"""The same command, run again: it says that there is nothing to do, changes nothing, and ends with status 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.encode import encode

WORDS = "nothing to do"


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_corpus: Callable[..., Path],
    tiny_model: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> Path:
    directory = tmp_path_factory.mktemp("twice")
    model = tiny_model(directory / "model", window=48)
    corpus = tiny_corpus(directory / "corpus.jsonl", 20)
    encode(sources=[str(corpus)], memory=directory / "memory", model=str(model), passage_words=16)
    tiny_questions(directory / "questions.jsonl", 3)
    return directory


def contents(directory: Path) -> dict[Path, bytes]:
    """Every file of the memory; an index's lock and what a look leaves behind are none of its content."""
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "lock"}


@pytest.mark.parametrize(
    "command",
    [
        "encode corpus.jsonl --memory memory --model model --passage-words 16",
        "refresh corpus.jsonl --memory memory --model model",
        "index memory",
        "index memory --language english",
        "compact memory",
        "vacuum memory",
        "repair memory",
        "export memory --output passages.jsonl",
        "tasks memory --output tasks",
        "answer questions.jsonl --memory memory --model model --output out.jsonl --candidates 4 --max-answer-tokens 3",
    ],
)
def test_the_second_run_has_nothing_to_do(command: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    first = CliRunner().invoke(glimmer, command.split(), catch_exceptions=False)
    assert first.exit_code == 0, first.output
    before = contents(home)
    second = CliRunner().invoke(glimmer, command.split(), catch_exceptions=False)
    assert second.exit_code == 0, second.output
    assert WORDS in second.stdout
    assert contents(home) == before


def test_a_rollback_to_what_the_newest_version_shows_makes_no_other(kit: Any, tmp_path: Path) -> None:
    memory = kit.memory(tmp_path / "m", 5, 2)
    command = ["rollback", str(memory), "--version", "1"]
    assert WORDS not in CliRunner().invoke(glimmer, command, catch_exceptions=False).stdout
    again = CliRunner().invoke(glimmer, command, catch_exceptions=False)
    assert (again.exit_code, again.stdout) == (
        0,
        f"{memory}: nothing to do, version 3 holds what version 1 held: 5 passages\n",
    )


def test_an_export_that_is_another_is_written_anew(kit: Any, tmp_path: Path) -> None:
    memory, file = kit.memory(tmp_path / "m", 5), tmp_path / "passages.jsonl"
    command = ["export", str(memory), "--output", str(file)]
    CliRunner().invoke(glimmer, command, catch_exceptions=False)
    whole = file.read_bytes()
    for other in (whole[:-1], whole + b"x", b"", b"x" + whole[1:]):
        file.write_bytes(other)
        assert WORDS not in CliRunner().invoke(glimmer, command, catch_exceptions=False).stdout
        assert file.read_bytes() == whole


def test_a_conversion_that_is_there_is_left_alone_and_another_is_refused(t5_files: Path, tmp_path: Path) -> None:
    command = ["convert", str(t5_files / "test_t5_tiny.checkpoint_0"), "--tokenizer", str(t5_files / "spiece.model")]
    command += ["--output", str(tmp_path / "m"), "--live-proportion"]
    first = CliRunner().invoke(glimmer, [*command, "1/2", "--rerank-proportion", "0"], catch_exceptions=False)
    assert first.exit_code == 0, first.output
    (tmp_path / "m" / "README.md").write_text("A note of mine.")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()}
    second = CliRunner().invoke(glimmer, [*command, "1/2", "--rerank-proportion", "0"], catch_exceptions=False)
    assert WORDS in second.stdout
    again = CliRunner().invoke(glimmer, [*command, "1/2", "--rerank-proportion", "0", "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["nothing_to_do"] is True
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()} == times
    other = CliRunner().invoke(glimmer, [*command, "1", "--rerank-proportion", "0"])
    assert other.exit_code == 1
    assert "holds another model, or this one converted otherwise" in str(other.exception)
    weights = tmp_path / "m" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    changed = CliRunner().invoke(glimmer, [*command, "1/2", "--rerank-proportion", "0"])
    assert "holds another model" in str(changed.exception)
