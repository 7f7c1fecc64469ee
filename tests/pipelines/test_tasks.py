"""`glimmer tasks`: KILT files out of a memory's text, repeatable, with provenance that training finds again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from glimmer import UsageError
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.encode import encode
from glimmer.pipelines.tasks import make_tasks
from glimmer.reader.formats.queries import open_queries
from glimmer.reader.training.examples import gold_positions
from glimmer.storage.memory import Memory

ARTICLES = [
    (
        "Naples",
        "Naples is the regional capital of Campania. It was founded by Greeks from Cumae in 1470.",
    ),
    (
        "Ada Lovelace",
        "Ada Lovelace (born 10 December 1815) was an English mathematician known for her work on the engine. "
        "She translated an article by Luigi Menabrea in 1843, and added seven notes to it, which are the reason why "
        "many people regard her as one of the first to see what such a machine could be used for in the end.",
    ),
    ("Rain", "Rain falls."),
]


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    home = tmp_path_factory.mktemp("tasks")
    corpus = home / "corpus.jsonl"
    records = [{"id": str(n), "title": title, "text": text} for n, (title, text) in enumerate(ARTICLES)]
    corpus.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    encode(sources=[str(corpus)], memory=home / "memory", model=str(tiny_model(home / "model", window=256)))
    return home / "memory"


def test_every_made_question_is_a_kilt_record_whose_gold_passage_holds_the_answer(memory: Path, tmp_path: Path) -> None:
    result = make_tasks(memory=memory, output=tmp_path / "tasks", per_passage=20)
    opened = Memory.open(memory)
    assert {"cloze", "fact", "description", "title", "slot", "claim", "copy"} == set(result.files)
    for name, path in result.files.items():
        count = 0
        for query, gold in gold_positions(opened, open_queries(path)):
            count += 1
            assert gold
            assert query.outputs is not None
            answer = query.outputs[0].answer
            assert answer is not None
            texts = [" ".join([passage.title, *passage.text.split()]) for passage in opened.texts(np.array(gold))]
            assert name == "claim" or any(answer in text for text in texts)
        assert count == result.questions[name]


def test_the_same_memory_and_seed_make_the_same_files(memory: Path, tmp_path: Path) -> None:
    def files(name: str, seed: int) -> dict[str, bytes]:
        result = make_tasks(memory=memory, output=tmp_path / name, seed=seed)
        return {task: path.read_bytes() for task, path in result.files.items()}

    assert files("one", 1) == files("again", 1)
    assert files("two", 2) != files("one-more", 1)


def test_the_same_command_again_has_nothing_to_do_and_another_refuses_the_output(memory: Path, tmp_path: Path) -> None:
    arguments = ["tasks", str(memory), "--output", str(tmp_path / "tasks")]
    run = CliRunner().invoke(glimmer, arguments)
    assert run.exit_code == 0, run.output
    assert "cloze" in run.output
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tasks").iterdir()}
    again = CliRunner().invoke(glimmer, arguments)
    assert again.exit_code == 0, again.output
    assert "nothing to do" in again.output
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tasks").iterdir()} == before
    with pytest.raises(UsageError, match="other settings"):
        make_tasks(memory=memory, output=tmp_path / "tasks", seed=5)
    (tmp_path / "tasks" / "mine.txt").touch()
    with pytest.raises(UsageError, match="is not empty"):
        make_tasks(memory=memory, output=tmp_path / "tasks")
