"""Predictions say how probable an answer is; improbable ones can be withheld, and the report tells what that gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import glimmer
from glimmer import UsageError
from glimmer.pipelines.answering.risk_coverage import SHARES, risk_coverage, risk_coverage_section
from glimmer.reader.formats.queries import open_queries

QUESTIONS = 30
SETTINGS: dict[str, Any] = {"candidates": 6, "select": 2, "batch_size": 4, "max_answer_tokens": 4}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_corpus: Callable[..., Path],
    tiny_model: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> Path:
    home = tmp_path_factory.mktemp("probability")
    model = str(tiny_model(home / "model", memory_layers=1, live_a=1, live_b=1, window=48))
    glimmer.encode(sources=tiny_corpus(home / "corpus.jsonl", 30), memory=home / "memory", model=model)
    tiny_questions(home / "questions.jsonl", QUESTIONS)
    return home


def answers(world: Path, output: Path, **changes: Any) -> list[dict[str, Any]]:
    given: dict[str, Any] = {"queries": world / "questions.jsonl", "memory": world / "memory", "model": world / "model"}
    glimmer.answer_file(**{**given, **SETTINGS, "output": output, **changes})
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def test_an_answer_has_the_probability_of_its_tokens(world: Path, tmp_path: Path) -> None:
    records = answers(world, tmp_path / "out.jsonl")
    found = [record["probability"] for record in records]
    assert all(0 <= probability <= 1 for probability in found)
    assert len(set(found)) > 1
    with glimmer.open_reader(world / "model", world / "memory", batch_size=4) as reader:
        options = {name: value for name, value in SETTINGS.items() if name != "batch_size"}
        for record, query in zip(records[:3], open_queries(world / "questions.jsonl"), strict=False):
            answer = reader.answer(query.question, **options)
            assert answer.text == record["output"][0]["answer"]
            assert answer.probability == pytest.approx(record["probability"], rel=1e-3)
            assert answer.to_json()["probability"] == answer.probability


def test_improbable_answers_are_withheld_and_noted(world: Path, tmp_path: Path) -> None:
    every = answers(world, tmp_path / "every.jsonl")
    threshold = float(np.median([record["probability"] for record in every]))
    some = answers(world, tmp_path / "some.jsonl", no_answer_below=threshold)
    withheld = 0
    for whole, record in zip(every, some, strict=True):
        assert record["probability"] == whole["probability"]
        assert record["output"][0]["provenance"] == whole["output"][0]["provenance"]
        if whole["probability"] >= threshold:
            assert record == whole
            continue
        withheld += 1
        text = whole["output"][0]["answer"]
        assert record["output"][0]["answer"] == ""
        assert record["note"].startswith(f"the answer {text!r} was withheld: its probability is ")
    assert 0 < withheld < QUESTIONS


def test_answers_of_another_threshold_are_not_continued(world: Path, tmp_path: Path) -> None:
    answers(world, tmp_path / "out.jsonl")
    with pytest.raises(glimmer.MismatchError, match="no_answer_below"):
        answers(world, tmp_path / "out.jsonl", no_answer_below=0.5)
    with pytest.raises(UsageError, match="probability, 0 to 1"):
        answers(world, tmp_path / "other.jsonl", no_answer_below=1.5)


def test_a_question_without_a_passage_has_no_probability(world: Path, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("zzzzqq xxyyzz\n")
    (record,) = answers(world, tmp_path / "out.jsonl", queries=tmp_path / "q.txt")
    assert record["output"][0]["answer"] == ""
    assert "probability" not in record


def judged(tmp_path: Path, found: Sequence[tuple[float | None, str]]) -> tuple[Path, Path]:
    """Questions whose right answer is "yes", and predictions of (probability, answer)."""
    queries, predictions = tmp_path / "q.jsonl", tmp_path / "p.jsonl"
    gold = [{"id": str(n), "input": f"Question {n}?", "output": [{"answer": "yes"}]} for n in range(len(found))]
    guesses = [
        {"id": str(n), "output": [{"answer": answer}]} | ({} if probability is None else {"probability": probability})
        for n, (probability, answer) in enumerate(found)
    ]
    for path, records in ((queries, gold), (predictions, guesses)):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return queries, predictions


def test_the_curve_goes_from_all_answers_to_the_most_probable_ones(tmp_path: Path) -> None:
    # Of a hundred questions the answers of probability .9 (40) are right, of .5 (40) half, of .1 (20) none.
    rows = [(0.9, "yes")] * 40 + [(0.5, "yes"), (0.5, "no")] * 20 + [(0.1, "no")] * 20
    queries, predictions = judged(tmp_path, rows)
    curve = risk_coverage(open_queries(queries), predictions)
    assert curve is not None
    assert curve.questions == 100
    found = [(point.threshold, point.coverage, point.exact_match) for point in curve.points]
    assert found == [(0.1, 1.0, 0.6), (0.5, 0.8, 0.75), (0.9, 0.4, 1.0)]
    assert curve.points[1].margin == pytest.approx(1.96 * (0.75 * 0.25 / 80) ** 0.5)
    assert [point.threshold for point in curve.table()] == [0.1, 0.5, 0.9]
    section = risk_coverage_section(curve)
    assert "75.0 ± 9.5" in section
    assert "100 % at 40 %" in section


def test_empty_answers_count_as_not_answered(tmp_path: Path) -> None:
    rows: list[tuple[float | None, str]] = [(0.9, "yes")] * 30 + [(0.2, "")] * 10 + [(None, "")] * 10
    queries, predictions = judged(tmp_path, rows)
    curve = risk_coverage(open_queries(queries), predictions)
    assert curve is not None
    assert [(point.coverage, point.exact_match) for point in curve.points] == [(0.6, 1.0)]


def test_there_is_no_curve_without_probabilities_or_of_a_few_questions(tmp_path: Path) -> None:
    queries, predictions = judged(tmp_path, [(None, "yes")] * 50)
    assert risk_coverage(open_queries(queries), predictions) is None
    queries, predictions = judged(tmp_path, [(0.5, "yes")] * 5)
    assert risk_coverage(open_queries(queries), predictions) is None


def test_the_report_shows_the_curve(world: Path, tmp_path: Path) -> None:
    asked = [json.loads(line) for line in (world / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    guesses = answers(world, tmp_path / "guesses.jsonl")
    for record, guess in zip(asked, guesses, strict=True):
        record["output"] = [{"answer": guess["output"][0]["answer"] or "x"}]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(record) + "\n" for record in asked), encoding="utf-8")
    answers(world, tmp_path / "out.jsonl", queries=tmp_path / "gold.jsonl", report=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="coverage"' in page
    assert "<polyline" in page
    assert len(SHARES) == 10
