"""The commands around answering, as a user types them: index, search, answer, evaluate, estimate, convert."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.encode import encode

COMMANDS = ("index", "search", "answer", "evaluate", "estimate", "convert")


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_corpus: Callable[..., Path],
    tiny_model: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> Path:
    home = tmp_path_factory.mktemp("commands")
    model = tiny_model(home / "model", window=48)
    encode(sources=[str(tiny_corpus(home / "c.jsonl", 20))], memory=home / "memory", model=str(model), passage_words=16)
    tiny_questions(home / "questions.jsonl", 5)
    return home


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(glimmer, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    text = invoke(command, "--help").output
    assert f"Example:\n    glimmer {command} " in text


def test_index_then_search(world: Path) -> None:
    result = invoke("index", world / "memory", "--json")
    record = json.loads(result.stdout)
    assert record["version"] == 1
    assert record["passages"] > 20
    assert record["directory"] == str(world / "memory" / "indexes" / "1" / "bm25")
    title = json.loads((world / "c.jsonl").read_text().splitlines()[3])["title"]
    found = json.loads(invoke("search", world / "memory", *title.split(), "--top", 2, "--json").stdout)
    assert found["question"] == title
    assert len(found["passages"]) == 2
    assert found["passages"][0]["title"] == title
    assert len(found["passages"][0]["passage_id"]) == 32
    shown = invoke("search", world / "memory", title).stdout
    assert f"{title}  ({found['passages'][0]['passage_id']})" in shown
    assert "nothing found" in invoke("search", world / "memory", "qqqq").stdout


def test_answer_then_evaluate(world: Path, tmp_path: Path) -> None:
    arguments = ["answer", world / "questions.jsonl", "--memory", world / "memory", "--model", world / "model"]
    arguments += ["--output", tmp_path / "out.jsonl", "--candidates", 8, "--select", 3, "--max-answer-tokens", 4]
    shown = invoke(*arguments, "--report", tmp_path / "r.html").stdout
    assert "5 of 5 queries" in shown
    for stage in ("retrieve", "fetch", "decompress", "question", "live A", "live B", "decode", "queries/s"):
        assert stage in shown
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert "nothing to do" in invoke(*arguments).stdout
    assert json.loads(invoke(*arguments, "--json").stdout)["resumed"] == 5

    gold: list[dict[str, Any]] = []
    for line in (tmp_path / "out.jsonl").read_text().splitlines():
        guess = json.loads(line)
        (output,) = guess["output"]
        page = output["provenance"][0]["wikipedia_id"]
        gold.append(
            {
                "id": guess["id"],
                "task": "odd" if len(gold) % 2 else "even",
                "output": [{"answer": output["answer"], "provenance": [{"wikipedia_id": page}]}],
            }
        )
    (tmp_path / "gold.jsonl").write_text("\n".join(map(json.dumps, gold)))
    scores = json.loads(invoke("evaluate", tmp_path / "gold.jsonl", tmp_path / "out.jsonl", "--json").stdout)
    for name in ("accuracy", "em", "f1", "rougel", "Rprec", "recall@5", "KILT-em", "KILT-f1"):
        assert scores[name] == pytest.approx(1.0)
    assert scores["tasks"]["even"]["questions"] == 3
    table = invoke("evaluate", tmp_path / "gold.jsonl", tmp_path / "out.jsonl", "--ranks", "1,3").stdout.splitlines()
    assert [line.split()[:2] for line in table[2:5]] == [["even", "3"], ["odd", "2"], ["all", "5"]]
    assert table[2].split()[2:] == ["100.00"] * 8


def test_evaluate_says_what_is_wrong_with_ranks(tmp_path: Path) -> None:
    result = CliRunner().invoke(glimmer, ["evaluate", "gold", "guess", "--ranks", "five"])
    assert result.exit_code == 2
    assert "whole numbers separated by commas" in result.output


def test_estimate_puts_the_readers_side_by_side() -> None:
    shown = invoke("estimate", "--model", "t5-small", "--passages", 1000).stdout
    for name in ("FiD over all", "LUMEN over all", "GLIMMER", "40 → 10", "formula leaves out", "memory on disk"):
        assert name in shown
    record = json.loads(invoke("estimate", "--model", "t5-small", "--peak", "1e12", "--json").stdout)
    assert record["peak_flops"] == 1e12
    assert [reader["name"] for reader in record["online"]][-1] == "GLIMMER"
    result = CliRunner().invoke(glimmer, ["estimate", "--peak", "abacus"])
    assert result.exit_code == 2
    assert "neither a number nor one of a100" in result.output


def test_convert_makes_a_model_directory(t5_files: Path, tmp_path: Path) -> None:
    arguments = ["convert", t5_files / "test_t5_tiny.checkpoint_0", "--tokenizer", t5_files / "spiece.model"]
    arguments += ["--live-proportion", "1/2", "--rerank-proportion", "0", "--json"]
    record = json.loads(invoke(*arguments, "--output", tmp_path / "m").stdout)
    assert (tmp_path / "m" / "config.json").is_file()
    assert sum(record["layers"][part] for part in ("memory", "live_a", "live_b")) > 0
    assert record["layers"]["decoder"] > 0


def test_an_error_is_one_line_and_a_status(world: Path, tmp_path: Path) -> None:
    """Through the real entry point."""
    (tmp_path / "q.jsonl").write_text('{"id": "a", "input": "kalo"}\n{"id": "a", "input": "kalo"}\n')
    command = [sys.executable, "-c", "from glimmer.pipelines.cli.program import main; main()", "answer"]
    command += [str(tmp_path / "q.jsonl"), "--memory", str(world / "memory"), "--model", str(world / "model")]
    result = subprocess.run([*command, "--output", str(tmp_path / "o")], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    last = result.stderr.strip().splitlines()[-1]
    assert last == f"glimmer: error: {tmp_path}/q.jsonl:2: id 'a' is already used at line 1"
    assert "Traceback" not in result.stderr
