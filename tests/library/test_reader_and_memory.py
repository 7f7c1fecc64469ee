"""`glimmer.open_memory` and `glimmer.open_reader`: a memory and a reader as objects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import glimmer

SMALL: dict[str, Any] = {"candidates": 12, "select": 4, "max_answer_tokens": 6}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_corpus: Callable[..., Path],
    tiny_model: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> Path:
    home = tmp_path_factory.mktemp("objects")
    model = tiny_model(home / "model", window=48)
    glimmer.encode(
        sources=[str(tiny_corpus(home / "c.jsonl", 30))], memory=home / "memory", model=str(model), passage_words=16
    )
    tiny_questions(home / "questions.jsonl", 11)
    return home


@pytest.fixture(scope="module")
def memory(world: Path) -> glimmer.Memory:
    return glimmer.open_memory(world / "memory")


@pytest.fixture(scope="module")
def reader(world: Path, memory: glimmer.Memory) -> glimmer.Reader:
    return glimmer.open_reader(world / "model", memory)


def asked(world: Path) -> list[str]:
    return [json.loads(line)["input"] for line in (world / "questions.jsonl").read_text().splitlines()]


# A memory.


def test_a_memory_is_a_mapping_from_passage_ids_to_passages(memory: glimmer.Memory) -> None:
    ids = list(memory)
    assert len(ids) == len(memory) > 30
    assert ids == sorted(ids)
    passage = memory[ids[5]]
    assert isinstance(passage, glimmer.Passage)
    assert passage.passage_id == ids[5]
    assert passage == memory.get(ids[5])
    assert ids[5] in memory
    for absent in ("0" * 32, "no id", 7):
        assert absent not in memory
        with pytest.raises(glimmer.PassageNotFoundError, match="there is no passage"):
            memory[absent]  # type: ignore[index]
        with pytest.raises(KeyError):
            memory[absent]  # type: ignore[index]


def test_a_memory_says_what_it_is(world: Path, memory: glimmer.Memory) -> None:
    assert repr(memory).startswith(f"<glimmer.Memory '{world / 'memory'}', version 1: {len(memory)} passages, ")
    assert (memory.version, memory.width, memory.codec, memory.encoder) == (1, 32, "int8", "model")
    assert memory.tokens == sum(len(passage.tokens) for passage in memory.values())


def test_search_finds_titles_best_first(memory: glimmer.Memory) -> None:
    title = memory[next(iter(memory))].title
    hits = memory.search(title, k=3)
    assert hits[0].title == title
    assert [hit.score for hit in hits] == sorted((hit.score or 0.0 for hit in hits), reverse=True)
    assert hits[0] == memory[hits[0].passage_id]
    assert memory.search([title, "qqqq"], k=3) == [hits, []]
    with pytest.raises(glimmer.UsageError, match="k must be positive"):
        memory.search(title, k=0)


def test_vectors_are_the_decoded_codes_of_each_passage(memory: glimmer.Memory) -> None:
    ids = list(memory)[:37]
    vectors = memory.vectors(ids)
    codes, lengths = memory.snapshot.fetch(memory.positions(ids))
    decoded = np.asarray(memory.snapshot.codec.decode(jnp.asarray(codes), jnp.float32))
    for vector, row, length, passage in zip(vectors, decoded, lengths, memory.passages(ids), strict=True):
        assert vector.dtype == np.float32
        assert vector.shape == (len(passage.tokens), memory.width)
        np.testing.assert_array_equal(vector, row[:length])
    np.testing.assert_array_equal(memory.vectors(memory[ids[20]]), vectors[20])
    assert memory.vectors([]) == []


def test_a_closed_memory_says_so(world: Path) -> None:
    with glimmer.open_memory(str(world / "memory")) as opened:
        first = opened[next(iter(opened))]
    assert first.text
    assert repr(opened).endswith("(closed)>")
    with pytest.raises(glimmer.UsageError, match="open the memory again"):
        len(opened)


def test_no_memory_and_no_version(world: Path, tmp_path: Path) -> None:
    with pytest.raises(glimmer.UsageError, match="no memory here"):
        glimmer.open_memory(tmp_path)
    with pytest.raises(glimmer.UsageError, match="version 9"):
        glimmer.open_memory(world / "memory", version=9)


# A reader.


@pytest.mark.parametrize(
    "options", [{}, {"grounded": False}, {"beams": 2, "grounded": True}], ids=["default", "not grounded", "beams"]
)
def test_a_reader_answers_as_the_job_does(
    world: Path, reader: glimmer.Reader, tmp_path: Path, options: dict[str, Any]
) -> None:
    glimmer.answer_file(
        queries=world / "questions.jsonl",
        memory=world / "memory",
        model=world / "model",
        output=tmp_path / "out.jsonl",
        **SMALL,
        **options,
    )
    predicted = [json.loads(line)["output"][0] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    answers = reader.answer(asked(world), **SMALL, **options)
    assert [answer.text for answer in answers] == [output["answer"] for output in predicted]
    assert [[(p.passage_id, p.score) for p in answer.passages] for answer in answers] == [
        [(p["passage_id"], p["score"]) for p in output["provenance"]] for output in predicted
    ]
    assert len({answer.text for answer in answers}) > 1
    one = reader.answer(asked(world)[3], **SMALL, **options)
    assert one == answers[3]
    assert str(one) == one.text


def test_a_second_call_compiles_nothing(world: Path, reader: glimmer.Reader) -> None:
    traced: list[str] = []
    reader.answer(asked(world)[0], **SMALL)

    def hear(event: str, duration_secs: float, **_: str | int) -> None:
        if "compile" in event:
            traced.append(event)

    jax.monitoring.register_event_duration_secs_listener(hear)
    reader.answer(asked(world)[0], **SMALL)
    assert traced == []
    reader.answer(asked(world)[0], **{**SMALL, "max_answer_tokens": 5})
    assert traced, "the listener hears of compilations"


def test_a_quote_holds_the_answer(world: Path, reader: glimmer.Reader) -> None:
    for answer in reader.answer(asked(world), **SMALL):
        if answer.quote is None:  # signs alone, or it began in a title and went on in the text
            texts = [text for passage in answer.passages for text in (passage.title, passage.text)]
            assert not re.search(r"\w", answer.text) or all(answer.text not in text for text in texts)
            continue
        assert answer.page == answer.quote.passage
        assert answer.quote.passage in answer.passages
        quoted = answer.quote.sentence[answer.quote.start : answer.quote.end]
        assert quoted.split() == answer.text.split()
        assert answer.quote.marked("<", ">").replace("<", "").replace(">", "") == answer.quote.sentence
        record = json.loads(json.dumps(answer.to_json()))
        assert record["answer"] == answer.text
        assert record["quote"]["sentence"] == answer.quote.sentence


def test_given_passages_are_read_instead_of_retrieved_ones(
    world: Path, memory: glimmer.Memory, reader: glimmer.Reader
) -> None:
    ids = list(memory)[:3]
    answer = reader.answer(asked(world)[0], passages=ids, **SMALL)
    assert {passage.passage_id for passage in answer.passages} == set(ids)
    both = reader.answer(asked(world)[:2], passages=[memory.passages(ids), memory.search("kalo", k=2)], **SMALL)
    assert both[0] == answer
    nothing = reader.answer(asked(world)[0], passages=[], **SMALL)
    assert (nothing.text, nothing.passages, nothing.page) == ("", (), None)
    with pytest.raises(glimmer.PassageNotFoundError, match="there is no passage '0000"):
        reader.answer(asked(world)[0], passages=["0" * 32])
    with pytest.raises(glimmer.UsageError, match="each of the 2 questions, not 1"):
        reader.answer(asked(world)[:2], passages=[ids])


def test_questions_that_find_nothing_or_are_nothing(reader: glimmer.Reader) -> None:
    assert reader.answer([]) == []
    answer = reader.answer("qqqq", **SMALL)
    assert (answer.text, answer.passages, answer.quote) == ("", (), None)
    with pytest.raises(glimmer.UsageError, match="question 2: the question is empty"):
        reader.answer(["kalo", "  "])
    long = reader.answer("kalo " * 2000, **SMALL)
    assert long.note is not None
    assert "question shortened" in long.note
    with pytest.raises(glimmer.UsageError, match="question 1: the question has 2,000 words"):
        reader.answer("kalo " * 2000, long_questions="fail")


def test_options_that_contradict_each_other(reader: glimmer.Reader) -> None:
    with pytest.raises(glimmer.UsageError, match=r"select \(5\) must lie between 1 and candidates \(4\)"):
        reader.answer("kalo", candidates=4, select=5)
    with pytest.raises(glimmer.UsageError, match="no way 'cut'"):
        reader.answer("kalo", long_questions="cut")  # type: ignore[call-overload]


def test_threads_get_the_answers_they_asked_for(world: Path, reader: glimmer.Reader) -> None:
    expected = reader.answer(asked(world), **SMALL)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda question: reader.answer(question, **SMALL), asked(world))) == expected


def test_a_reader_that_does_not_fit(world: Path, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(glimmer.MismatchError, match="another encoder"):
        glimmer.open_reader(tiny_model(tmp_path / "other", window=48, seed=7), world / "memory")
    with pytest.raises(glimmer.ModelError, match="no decoder"):
        glimmer.open_reader(tiny_model(tmp_path / "encoder", window=48, with_decoder=False), world / "memory")
    with pytest.raises(glimmer.UsageError, match="no such model directory"):
        glimmer.open_reader("nothing", world / "memory")


def test_a_memory_knows_the_reader_that_made_it(
    world: Path,
    memory: glimmer.Memory,
    tiny_corpus: Callable[..., Path],
    tiny_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    question = asked(world)[1]
    with glimmer.open_reader(None, memory) as found:
        assert found.answer(question, **SMALL).text
        assert repr(found) == f"<glimmer.Reader 'model' over {memory!r}>"
    with pytest.raises(glimmer.UsageError, match="open the reader again"):
        found.answer(question)
    encoder = tiny_model(tmp_path / "encoder", window=48, with_decoder=False, seed=3)
    glimmer.encode(sources=[str(tiny_corpus(tmp_path / "c.jsonl", 3))], memory=tmp_path / "m", model=str(encoder))
    with pytest.raises(glimmer.UsageError, match=r"no reader is known for the encoder of this memory \(encoder\)"):
        glimmer.open_reader(None, tmp_path / "m")
