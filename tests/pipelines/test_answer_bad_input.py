"""What `glimmer answer` refuses: by name, with file and line, before it writes or computes anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glimmer import GlimmerError, InputError, MismatchError, ModelError, StorageError, UsageError
from glimmer.pipelines.answer import answer_file
from glimmer.pipelines.encode import encode
from glimmer.pipelines.engines import Engine


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Callable[..., Path], tiny_model: Callable[..., Path]
) -> Path:
    home = tmp_path_factory.mktemp("refused")
    model = tiny_model(home / "model", memory_layers=2, live_a=1, live_b=1, window=48)
    tiny_model(home / "encoder", memory_layers=2, live_a=1, live_b=1, window=48, with_decoder=False)
    tiny_model(home / "other", memory_layers=2, live_a=1, live_b=1, window=48, seed=7)
    encode(sources=[str(tiny_corpus(home / "c.jsonl", 10))], memory=home / "memory", model=str(model), passage_words=16)
    (home / "questions.jsonl").write_text('{"id": "a", "input": "kalo?"}\n')
    return home


def refused(world: Path, tmp_path: Path, error: type[GlimmerError], **changes: Any) -> str:
    """Runs the job, which must fail with `error` and leave no output; its message."""
    settings: dict[str, Any] = {
        "queries": world / "questions.jsonl",
        "memory": world / "memory",
        "model": world / "model",
        "output": tmp_path / "out.jsonl",
        **changes,
    }
    with pytest.raises(error) as raised:
        answer_file(**settings)
    assert not Path(settings["output"]).exists()
    assert not (world / "memory" / "indexes" / "1" / "bm25").exists(), "nothing was begun"
    return str(raised.value)


def questions(tmp_path: Path, *records: object) -> Path:
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_duplicate_ids(world: Path, tmp_path: Path) -> None:
    path = questions(tmp_path, {"id": "a", "input": "kalo"}, {"id": "a", "input": "terlo"})
    message = refused(world, tmp_path, InputError, queries=path)
    assert f"{path}:2: id 'a' is already used at line 1" in message


def test_a_question_of_5000_words(world: Path, tmp_path: Path) -> None:
    path = questions(tmp_path, {"id": "a", "input": "kalo"}, {"id": "b", "input": "kalo " * 5000})
    message = refused(world, tmp_path, InputError, queries=path, long_questions="fail")
    assert f"{path}:2: the question has 5,000 words" in message


def test_a_question_beyond_the_encoders_positions(world: Path, tmp_path: Path) -> None:
    path = questions(tmp_path, {"id": "a", "input": "kalo"}, {"id": "b", "input": "kalo " * 480})
    message = refused(world, tmp_path, InputError, queries=path, long_questions="fail")
    assert f"{path}:2: the question has 482 tokens; this reader takes at most 464" in message


def test_an_empty_question(world: Path, tmp_path: Path) -> None:
    path = questions(tmp_path, {"id": "a", "input": "  "})
    assert f"{path}:1: the question is empty" in refused(world, tmp_path, InputError, queries=path)


def test_an_unknown_passage_id(world: Path, tmp_path: Path) -> None:
    path = questions(tmp_path, {"id": "a", "input": "kalo"}, {"id": "b", "input": "kalo", "passage_ids": ["0" * 32]})
    message = refused(world, tmp_path, InputError, queries=path)
    assert f"{path}:2: passage '{'0' * 32}' is not in version 1 of {world / 'memory'}" in message


def test_a_context_that_is_no_passage(world: Path, tmp_path: Path) -> None:
    context = {"title": "Nobody", "text": "Nothing that was ever encoded."}
    path = questions(tmp_path, {"id": "a", "question": "kalo", "ctxs": [context]})
    message = refused(world, tmp_path, InputError, queries=path)
    assert f"{path}:1: the passage 'Nobody': 'Nothing that was ever encoded.'… is not in version 1" in message


def test_a_memory_of_another_encoder(world: Path, tmp_path: Path) -> None:
    message = refused(world, tmp_path, MismatchError, model=world / "other")
    assert "was made by another encoder" in message


def test_a_model_without_a_decoder(world: Path, tmp_path: Path) -> None:
    assert "has no decoder" in refused(world, tmp_path, ModelError, model=world / "encoder")


def test_a_version_that_does_not_exist(world: Path, tmp_path: Path) -> None:
    assert "version 9" in refused(world, tmp_path, UsageError, memory_version=9)


def test_a_version_without_passages(world: Path, tmp_path: Path) -> None:
    assert "version 0 holds no passages" in refused(world, tmp_path, UsageError, memory_version=0)


@pytest.mark.parametrize("name", ["output", "report"])
def test_a_directory_that_cannot_be_written(world: Path, tmp_path: Path, name: str) -> None:
    """A path below a regular file: permissions do not stop root."""
    (tmp_path / "file").write_text("")
    message = refused(world, tmp_path, StorageError, **{name: tmp_path / "file" / "out"})
    assert f"{tmp_path / 'file' / 'out'} cannot be written" in message


def test_an_output_that_is_something_else(world: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("my notes\n")
    with pytest.raises(InputError, match="not a prediction"):
        answer_file(
            queries=world / "questions.jsonl",
            memory=world / "memory",
            model=world / "model",
            output=tmp_path / "notes.txt",
        )
    assert (tmp_path / "notes.txt").read_text() == "my notes\n"


def test_the_query_file_as_output(world: Path, tmp_path: Path) -> None:
    path = questions(tmp_path, {"id": "a", "input": "kalo"})
    with pytest.raises(UsageError, match="would overwrite the query file"):
        answer_file(queries=path, memory=world / "memory", model=world / "model", output=path)


def test_more_selected_than_read(world: Path, tmp_path: Path) -> None:
    assert "select (5) must lie between 1 and candidates (4)" in refused(
        world, tmp_path, UsageError, candidates=4, select=5
    )


def test_provenance_of_a_file_that_has_none(world: Path, tmp_path: Path) -> None:
    message = refused(world, tmp_path, InputError, candidates_from="provenance")
    assert "none of its 1 records has provenance" in message


def test_records_without_provenance_where_every_one_must_have_some(world: Path, tmp_path: Path) -> None:
    page = {"wikipedia_id": "1003"}
    known = {"id": "a", "input": "kalo", "output": [{"provenance": [page]}]}
    lacking = {"id": "b", "input": "kalo", "output": [{"provenance": [page | {"wikipedia_id": "7"}]}]}
    path = questions(tmp_path, known, lacking, {"id": "c", "input": "kalo", "output": [{"answer": "x"}]})
    message = refused(world, tmp_path, InputError, queries=path, candidates_from="provenance", strict=True)
    assert f"{path}:2: page '7' is not in version 1" in message
    assert f"{path}:3: no provenance to answer from" in message


def test_a_table_whose_question_cannot_be_told(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("nummer,frage\n1,kalo terlo?\n2,mishami?\n")
    message = refused(world, tmp_path, InputError, queries=path)
    assert "the columns nummer, frage" in message
    assert "--field question=NAME" in message


def test_standard_input_with_a_runner(world: Path, tmp_path: Path) -> None:
    assert "save the queries to a file" in refused(world, tmp_path, UsageError, queries="-", engine=Engine())
