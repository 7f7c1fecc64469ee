"""Questions from plain statements: asked as people ask, answered in the text's own words."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimmer.reader.training.facts import fact, statements


def asked(title: str, text: str) -> dict[str, str]:
    """Every question that may be asked of a text -> its answer."""
    return {ask.lower(): each.answer for each in statements(title, text) for ask in each.asks}


@pytest.mark.parametrize(
    ("title", "text", "question", "answer"),
    [
        ("Shane", "Shane is a film directed by George Stevens.", "who directed shane", "George Stevens"),
        ("Emma", "Emma was written by the English author Jane Austen.", "who wrote emma", None),
        ("Emma", "It was written by author Jane Austen.", "who wrote emma", "Jane Austen"),
        ("Ada", "Ada (born 10 December 1815) was a writer.", "when was ada born", "10 December 1815"),
        (
            "Telstar",
            "Telstar was launched from Florida on July 10, 1962.",
            "when was telstar launched",
            "July 10, 1962",
        ),
        ("Petra", "Petra is a city. It is located in southern Jordan.", "where is petra", None),
        ("Crete", "Crete is the largest island of Greece.", "what is the largest island of greece", "Crete"),
        ("Lyon", "It has nine districts and two rivers.", "how many districts does lyon have", "nine"),
        ("Nepal", "Nepal's capital is Kathmandu.", "what is the capital of nepal", "Kathmandu"),
        ("Emma (novel)", "Emma is a novel published in 1815.", "when was emma published", "1815"),
    ],
)
def test_a_plain_statement_is_asked_for_in_plain_words(
    title: str, text: str, question: str, answer: str | None
) -> None:
    assert asked(title, text).get(question) == answer


def test_what_is_said_of_something_else_is_not_asked_of_the_article() -> None:
    text = "Emma is a novel by Jane Austen. Clueless was directed by Amy Heckerling."
    assert "who directed emma" not in asked("Emma", text)


def test_the_answer_is_not_what_the_question_names() -> None:
    assert "who founded ford" not in asked("Ford", "Ford is a company founded by Ford.")


def test_a_generator_repeats_its_questions_and_no_statement_gives_none() -> None:
    plain = statements("Emma", "Emma is a novel published in 1815. It was written by Jane Austen.")
    drawn = [fact(plain, Random(seed)) for seed in range(30)]
    assert drawn == [fact(plain, Random(seed)) for seed in range(30)]
    assert {each.answer for each in drawn if each} == {"1815", "Jane Austen"}
    assert fact([], Random(0)) is None


@given(st.text("aA .,()19'-é$%of the in born was directed by is", max_size=160))
@settings(max_examples=200, deadline=None)
def test_every_answer_stands_in_the_text(text: str) -> None:
    assert all(each.answer in text for each in statements("A born", text))
