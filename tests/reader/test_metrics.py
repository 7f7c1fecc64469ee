"""KILT's metrics for one question, corner by corner."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge import Rouge

from glimmer.reader.formats import metrics
from glimmer.reader.formats.kilt import Output, Provenance


def evidence(*page_ids: str | None, title: str | None = None) -> Output:
    return Output(provenance=tuple(Provenance(wikipedia_id=page_id, title=title) for page_id in page_ids))


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Beatles!", "beatles"),
        ("A-Team", "ateam"),  # punctuation goes before articles, so the "a" is no word any more
        ("the an a", ""),
        ("U.S.A.", "usa"),
        ("theatre\tof\nDreams", "theatre of dreams"),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation
        ("Éclair", "éclair"),
    ],
)
def test_answers_are_normalised_in_kilts_order(text: str, normalized: str) -> None:
    assert metrics.normalize_answer(text) == normalized


def test_accuracy_is_to_the_letter_and_exact_match_is_not() -> None:
    assert metrics.accuracy("The Who", ["The Who"]) == 1
    assert metrics.accuracy("the who", ["The Who"]) == 0
    assert metrics.exact_match("the who!", ["Who"]) == 1
    assert metrics.exact_match("who", []) == 0


def test_f1_is_over_bags_of_words_and_the_best_answer_counts() -> None:
    assert metrics.f1("red red blue", ["red blue blue"]) == pytest.approx(2 / 3)
    assert metrics.f1("paris france", ["london", "paris"]) == pytest.approx(2 / 3)
    assert metrics.f1("the", ["a"]) == 0, "nothing is left of either, so nothing is common"
    assert metrics.f1("x", []) == 0


@pytest.mark.parametrize("text", ["", ".", "..."])
def test_rouge_of_a_text_without_a_sentence_is_zero(text: str) -> None:
    assert metrics.rouge_l(text, ["an answer"]) == 0
    assert metrics.rouge_l("a guess", [text]) == 0
    assert metrics.rouge_l("a guess", []) == 0


def test_rouge_is_the_packages_on_raw_strings() -> None:
    guess, answer = "The cat sat. On the mat", "the cat sat on the mat."
    expected = Rouge().get_scores(guess, answer)[0]["rouge-l"]["f"]
    assert metrics.rouge_l(guess, ["nothing alike", answer]) == expected
    assert 0 < expected < 1


@settings(max_examples=300, deadline=None)
@given(*[st.text(alphabet="ab cd. \t", min_size=1, max_size=60).filter(lambda text: text.strip(".") != "")] * 2)
def test_rouge_without_recursion_equals_the_package(guess: str, answer: str) -> None:
    expected = Rouge(metrics=["rouge-l"]).get_scores(guess, answer)[0]["rouge-l"]["f"]
    assert metrics.rouge_l_aligned(guess, answer) == expected


def test_rouge_survives_texts_that_the_package_does_not() -> None:
    rng = random.Random(0)
    text = " ".join(rng.choices("abcdefghij", k=2_000))
    assert metrics.rouge_l(text, [text]) == pytest.approx(1.0)


def test_guessed_pages_are_ranked_once_and_need_an_id() -> None:
    pages = evidence("7", None, "3", "7").provenance
    assert metrics.guessed_pages(pages) == ["7", "3"]
    assert metrics.guessed_pages(None) == []


def test_r_precision_looks_at_as_many_guesses_as_the_set_has_pages() -> None:
    assert metrics.r_precision(["1", "2"], [evidence("2")]) == 0
    assert metrics.r_precision(["1", "2"], [evidence("2", "1", "1")]) == 1
    assert metrics.r_precision(["1", "3", "2"], [evidence("2", "1")]) == 0.5
    assert metrics.r_precision(["1"], [evidence("2"), evidence("1")]) == 1, "the best set counts"
    assert metrics.r_precision(["1"], [Output(answer="x"), evidence(), evidence(None)]) == 0
    assert metrics.r_precision([], [evidence("1")]) == 0


def test_an_evidence_set_arrives_with_its_last_page() -> None:
    hop = evidence("a", "b")
    assert metrics.rank_evidence(["a", "x", "b"], [hop]) == ([False, True], 1)
    assert metrics.rank_evidence(["a", "x"], [hop]) == ([False, False], 1)
    assert metrics.rank_evidence(["b", "a", "x"], [hop, evidence("b", "a"), evidence("x")]) == ([True, True], 2)


def test_a_page_of_two_sets_serves_both() -> None:
    ranking, distinct = metrics.rank_evidence(["a", "b"], [evidence("a"), evidence("a", "b")])
    assert (ranking, distinct) == ([True, True], 2)
    assert metrics.recall_at(1, ranking, distinct) == 0.5
    assert metrics.recall_at(5, ranking, distinct) == 1
    assert metrics.precision_at(5, ranking) == 0.4
    assert metrics.success_at(1, ranking) == 1


def test_empty_and_unidentified_evidence_counts_as_a_set_no_guess_completes() -> None:
    assert metrics.rank_evidence(["a"], [evidence("a"), evidence()]) == ([True], 2)
    assert metrics.rank_evidence(["a"], [evidence("a"), evidence(None)]) == ([True], 2)
    assert metrics.rank_evidence(["a"], [evidence("a"), Output(answer="x")]) == ([True], 1)


def test_without_guesses_or_evidence_nothing_is_ranked() -> None:
    assert metrics.rank_evidence([], [evidence("a")]) == ([], 0)
    assert metrics.rank_evidence(["a"], []) == ([False], 0)
    assert metrics.recall_at(5, [False], 0) == 0


def test_titles_and_answers_are_looked_for_in_normalised_text() -> None:
    assert metrics.gold_titles([evidence("1", title=" The Who "), evidence("2", title=""), evidence("3")]) == [
        "The Who"
    ]
    assert metrics.contains_any("…by The who, live", ["Who!"])
    assert not metrics.contains_any("nothing", ["Who"])
