"""Questions made from text: what is asked for, that answers stand in the text, and that a seed repeats them."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimmer.reader.sentences import sentences
from glimmer.reader.training import cloze
from glimmer.reader.training.spans import Gazetteer, described_kind, plain_title, spans

TITLE = "Marie Curie"
TEXT = (
    "Marie Curie (born 7 November 1867) was a Polish physicist who did pioneering research on radioactivity. "
    "She was born in Warsaw to two teachers, and moved to Paris in 1891. "
    'Her husband Pierre Curie shared the prize with her; the work of Dr. Becquerel won them $70,000 in "the same year".'
)
GAZETTEER = Gazetteer.of([("Marie Curie", TEXT), ("Warsaw", "Warsaw is the capital city of Poland.")])
KNOWN = [("Pierre Lescot", "Pierre Lescot was a French architect.")]


def found(sentence: str, gazetteer: Gazetteer = GAZETTEER) -> list[tuple[str, str]]:
    return [(sentence[span.start : span.end], span.kind) for span in spans(sentence, gazetteer)]


def test_sentences_end_at_full_stops_that_are_no_abbreviations() -> None:
    ranges = sentences(TEXT)
    assert len(ranges) == 3
    assert TEXT[slice(*ranges[1])].startswith("She was born")
    assert TEXT[slice(*ranges[2])].endswith('"the same year".')


def test_spans_have_the_kinds_one_would_ask_for() -> None:
    first, second, third = (found(TEXT[start:end]) for start, end in sentences(TEXT))
    assert ("7 November 1867", "date") in first
    assert {("Warsaw", "place"), ("two", "count"), ("1891", "year"), ("Paris", "name")} <= set(second)
    assert ("$70,000", "number") in third
    assert ("Pierre Curie", "name") in third
    known = Gazetteer.of(KNOWN)
    assert ("Pierre Curie", "person") in found("Her husband Pierre Curie shared the prize", known)


@given(st.text("aAbB zZ.,()19'-é$%of the in", max_size=120))
@settings(max_examples=300, deadline=None)
def test_spans_lie_within_the_sentence_in_order_and_apart(sentence: str) -> None:
    ranges = [(span.start, span.end) for span in spans(sentence, GAZETTEER)]
    assert all(0 <= start < end <= len(sentence) for start, end in ranges)
    assert all(left[1] <= right[0] for left, right in pairwise(ranges))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Ljubljana is the capital and largest city of Slovenia.", "place"),
        ("He was an English novelist.", "person"),
        ("A hammer is a tool in a city.", None),
        ("Rain falls.", None),
    ],
)
def test_a_first_sentence_says_what_its_subject_is(text: str, kind: str | None) -> None:
    assert described_kind(text) == kind


def test_cloze_questions_ask_for_words_of_the_text_and_leave_them_out() -> None:
    made = [cloze.cloze(TITLE, TEXT, GAZETTEER, Random(seed)) for seed in range(300)]
    questions = [one for one in made if one is not None]
    assert len(questions) > 150
    assert len({one.answer for one in questions}) > 6
    for one in questions:
        assert one.answer in TEXT
        assert one.question == one.question.lower()
    asked = {one.answer: one.question for one in questions}
    assert any(question.startswith(("when", "in what year", "what year")) for question in [asked["1891"]])


def test_the_same_seed_makes_the_same_question() -> None:
    assert cloze.cloze(TITLE, TEXT, GAZETTEER, Random(7)) == cloze.cloze(TITLE, TEXT, GAZETTEER, Random(7))


def test_descriptions_titles_and_slots_come_from_the_first_sentence() -> None:
    text = "Naples (Italian: Napoli) is the regional capital of Campania in southern Italy."
    described = cloze.description("Naples", text, Random(0))
    assert described is not None
    assert described.answer == "regional capital of Campania in southern Italy"
    asked = cloze.title_of("Naples (city)", text, Random(0))
    assert asked is not None
    assert asked.answer == "Naples"
    assert "naples" not in asked.question
    slots = {made.question: made.answer for seed in range(20) if (made := cloze.slot(TITLE, TEXT, Random(seed)))}
    assert slots["Marie Curie [SEP] date of birth"] == "7 November 1867"
    assert slots["Marie Curie [SEP] place of birth"] == "Warsaw"
    assert cloze.description("Rain", "Rain falls on the plain.", Random(0)) is None


def test_a_false_claim_differs_from_the_text_and_a_true_one_does_not() -> None:
    others = [("place", "Lisbon"), ("year", "1755"), ("name", "Bohr"), ("count", "nine"), ("date", "1 May 1900")]
    claims = [cloze.claim(TITLE, TEXT, GAZETTEER, others, Random(seed)) for seed in range(60)]  # type: ignore[arg-type]
    labels = set()
    for made in claims:
        if made is not None:
            labels.add(made.answer)
            assert (made.question.removeprefix("Marie Curie: ") in TEXT) == (made.answer == cloze.SUPPORTS)
    assert labels == {cloze.SUPPORTS, cloze.REFUTES}


def test_copying_continues_the_text() -> None:
    made = cloze.copying(TEXT, Random(3))
    assert made is not None
    assert f"{made.question} {made.answer}" in " ".join(TEXT.split())
    assert cloze.copying("Too short to copy.", Random(0)) is None


def test_brackets_are_no_part_of_a_title() -> None:
    assert plain_title("Mercury (planet)") == "Mercury"
    assert plain_title("(I Can't Get No) Satisfaction") == "(I Can't Get No) Satisfaction"
