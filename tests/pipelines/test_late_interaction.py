"""Candidates chosen by late interaction over the stored memory: what is kept, what is read, what does not change."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest

import glimmer
from glimmer import MismatchError, ModelError, UsageError
from glimmer.encoders.models import load_model
from glimmer.pipelines.answer import AnswerResult, answer_file
from glimmer.reader.config import LateInteractionConfig
from glimmer.reader.formats.queries import Query, open_queries
from glimmer.reader.model import load_reader
from glimmer.reader.serving.answer_options import AnswerOptions
from glimmer.reader.serving.answerer import Answerer
from glimmer.reader.serving.candidates import CandidateFinder
from glimmer.reader.serving.clock import COMPILE
from glimmer.reader.serving.retrieval_index import open_index
from glimmer.reader.serving.token_frequencies import open_token_frequencies
from glimmer.storage.memory import Memory

SMALL: dict[str, Any] = {"retrieve": 20, "candidates": 5, "select": 3, "max_answer_tokens": 4, "precision": "float32"}
QUESTIONS = 11


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_corpus: Callable[..., Path],
    tiny_model: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> Path:
    """Readers with and without a section `late_interaction`, memories of three codecs, and questions."""
    home = tmp_path_factory.mktemp("late")
    model = tiny_model(home / "model", window=48)
    tiny_model(
        home / "late",
        window=48,
        late_interaction=LateInteractionConfig(retrieve=20, candidates=5, retrieval_weight=0.2),
    )
    tiny_model(home / "lumen", window=48, live_a=0, live_b=2)
    corpus = tiny_corpus(home / "corpus.jsonl", 60)
    for codec in ("float32", "int8", "pq:bytes=8"):
        glimmer.encode(
            sources=[str(corpus)],
            memory=home / codec.partition(":")[0],
            model=str(model),
            codec=codec,
            passage_words=16,
            precision="float32",
        )
    tiny_questions(home / "questions.jsonl", QUESTIONS)
    return home


def answers(world: Path, memory: Memory, model: str = "late", **changes: Any) -> list[Any]:
    loaded = load_model(world / model)
    options = AnswerOptions.resolved(loaded, **(SMALL | {"batch_size": 4} | changes))
    answerer = Answerer(loaded, memory, options, frequencies=open_token_frequencies(memory))
    return list(answerer.answer(queries(world), index=open_index(memory)))


def queries(world: Path) -> list[Query]:
    return list(open_queries(world / "questions.jsonl"))


def run(world: Path, output: Path, model: str = "late", **changes: Any) -> AnswerResult:
    known = {"queries": world / "questions.jsonl", "memory": world / "int8", "model": world / model}
    return answer_file(**{**known, **SMALL, "output": output, **changes})


def expected_scores(world: Path, path: Path, query: Query, weight: float) -> dict[int, float]:
    """By position, from the decoded vectors, in NumPy."""
    memory, model = glimmer.open_memory(path), load_model(world / "late")
    snapshot = memory.snapshot
    (found,) = CandidateFinder(limit=20, index=open_index(snapshot), provided=None).find([query])
    (tokens,) = model.question_tokens([query.question])
    reader, params = load_reader(model, dtype="float32")
    question = _unit(np.asarray(reader.question(params, jnp.asarray(tokens)[None], jnp.array([len(tokens)])))[0])
    weights = open_token_frequencies(snapshot).weights(tokens)
    scores = {}
    assert found.scores is not None
    vectors = memory.vectors(snapshot.ids(found.positions))
    for position, first, passage in zip(found.positions.tolist(), found.scores.tolist(), vectors, strict=True):
        best = (_unit(passage) @ question.T).max(axis=0)
        scores[position] = float(best @ weights / weights.sum() + weight * np.log(first))
    return scores


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-6), np.float32)


@pytest.mark.parametrize("codec", ["float32", "int8", "pq"])
def test_the_candidates_are_the_best_by_maxsim_and_the_first_stages_score(world: Path, codec: str) -> None:
    for each in answers(world, Memory.open(world / codec)):
        scores = expected_scores(world, world / codec, each.query, 0.2)
        positions, found = each.found.positions.tolist(), each.found.late_scores.tolist()
        assert found == pytest.approx([scores[position] for position in positions], abs=2e-5)
        assert found == sorted(found, reverse=True)
        assert len(positions) == 5
        assert min(found) >= sorted(scores.values(), reverse=True)[4] - 2e-5


def test_each_retrieved_passage_is_read_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, fetch = Memory.open(world / "int8"), Memory.fetch
    read: list[int] = []

    def counting(self: Memory, positions: npt.NDArray[np.int64], **given: Any) -> Any:
        read.append(len(positions))
        return fetch(self, positions, **given)

    monkeypatch.setattr(Memory, "fetch", counting)
    answers(world, memory)
    assert sum(read) == 20 * QUESTIONS
    assert len(read) == 1, "several questions share one read"


def test_a_second_set_of_questions_compiles_nothing(world: Path) -> None:
    memory, loaded = Memory.open(world / "int8"), load_model(world / "late")
    options = AnswerOptions.resolved(loaded, **SMALL)
    answerer = Answerer(loaded, memory, options, frequencies=open_token_frequencies(memory))
    index = open_index(memory)
    list(answerer.answer(queries(world), index=index))
    compiling = answerer.seconds()[COMPILE]
    list(answerer.answer(queries(world)[::-1], index=index))
    assert answerer.seconds()[COMPILE] == compiling
    assert list(answerer.seconds())[:4] == ["retrieve", "fetch", "late interaction", "decompress"]


def test_order_and_neighbours_change_no_answer(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "whole")
    whole = {json.loads(line)["id"]: line for line in (tmp_path / "whole").read_bytes().splitlines()}
    lines = (world / "questions.jsonl").read_text().splitlines()
    for seed, count in ((1, QUESTIONS), (2, 4), (3, 1)):
        chosen = random.Random(seed).sample(lines, count)
        (tmp_path / f"{seed}.jsonl").write_text("\n".join(chosen))
        run(world, tmp_path / f"{seed}", queries=tmp_path / f"{seed}.jsonl")
        found = (tmp_path / f"{seed}").read_bytes().splitlines()
        assert found == [whole[json.loads(line)["id"]] for line in chosen]


def test_what_the_model_says_holds_unless_the_caller_says_otherwise(world: Path) -> None:
    late, plain, lumen = (load_model(world / name) for name in ("late", "model", "lumen"))

    def chosen(model: Any, **asked: Any) -> tuple[int, int, bool]:
        options = AnswerOptions.resolved(model, **asked)
        return options.retrieve, options.candidates, options.late_interaction

    assert chosen(late) == (20, 5, True)
    assert chosen(late, candidates=8) == (20, 8, True)
    assert chosen(late, candidates=40) == (40, 40, False)
    assert chosen(late, retrieve=5) == chosen(late, retrieve=5, candidates=5) == (5, 5, False)
    assert chosen(late, retrieve=100) == (100, 5, True)
    assert chosen(late, select=7) == (20, 7, True)
    assert chosen(plain) == (40, 40, False)
    assert chosen(plain, retrieve=200, candidates=10) == (200, 10, True)
    assert chosen(plain, retrieve=30) == (30, 30, False)
    assert chosen(lumen) == (10, 10, False)
    assert chosen(lumen, retrieve=50, select=4) == (50, 4, True)
    with pytest.raises(UsageError, match=r"retrieve \(4\) must not be less than candidates \(5\)"):
        AnswerOptions.resolved(late, retrieve=4, candidates=5)


def test_as_many_retrieved_as_read_answers_as_a_model_without_the_section(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "late", retrieve=12, candidates=12)
    run(world, tmp_path / "plain", model="model", retrieve=None, candidates=12)
    assert (tmp_path / "late").read_bytes() == (tmp_path / "plain").read_bytes()


def test_a_reader_without_a_re_ranker_reads_the_best(world: Path) -> None:
    for each in answers(world, Memory.open(world / "int8"), model="lumen", candidates=None):
        assert len(each.passages) == 3
        assert each.scores == pytest.approx(each.found.late_scores.tolist())


def test_passages_that_queries_bring_are_chosen_from_too(world: Path) -> None:
    memory = glimmer.open_memory(world / "int8")
    question = queries(world)[0].question
    given = [passage.passage_id for passage in memory.search(question, k=12)]
    with glimmer.open_reader(world / "late", memory, precision="float32") as reader:
        answer = reader.answer(question, passages=given, candidates=4, select=4, max_answer_tokens=4)
    assert len(answer.passages) == 4
    assert {passage.passage_id for passage in answer.passages} <= set(given)


def test_predictions_are_not_resumed_with_other_candidates(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "out")
    assert run(world, tmp_path / "out").answered == 0
    with pytest.raises(MismatchError, match="retrieve"):
        run(world, tmp_path / "out", retrieve=30)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"retrieve": 5, "candidates": 10}, "candidates"),
        ({"retrieve": 0}, "retrieve"),
        ({"retrieval_weight": -0.5}, "retrieval_weight"),
        ({"enabled": "yes"}, "enabled"),
        ({"weight": 1}, "weight"),
        ([], "late_interaction"),
    ],
)
def test_a_section_that_is_not_understood_is_refused(
    world: Path, tmp_path: Path, section: object, named: str, tiny_model: Callable[..., Path]
) -> None:
    model = tiny_model(tmp_path / "m", window=48)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"late_interaction": section}))
    with pytest.raises(ModelError, match=named):
        AnswerOptions.resolved(load_model(model))
