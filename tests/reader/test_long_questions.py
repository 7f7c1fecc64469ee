"""A question beyond the limits is shortened where it says least, and says so; or it is skipped, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimmer import InputError
from glimmer.reader.formats.kilt import RecordError
from glimmer.reader.formats.long_questions import (
    MAX_QUESTION_CHARACTERS,
    MAX_QUESTION_WORDS,
    MENTION,
    LongQuestions,
    kept_part,
    shorten_text,
    token_window,
)
from glimmer.reader.formats.queries import open_queries

WORDS = [f"w{n}" for n in range(MAX_QUESTION_WORDS + 100)]
LONG = " ".join(WORDS)


def test_short_questions_are_left_alone() -> None:
    assert shorten_text("who  is\nit?", "auto") == ("who  is\nit?", None, False)
    assert shorten_text(" ".join(WORDS[:MAX_QUESTION_WORDS]), "fail").note is None


def test_the_end_of_a_dialogue_is_kept_and_the_start_of_anything_else() -> None:
    assert shorten_text(LONG, "auto").question.split() == WORDS[:MAX_QUESTION_WORDS]
    turns = LONG.replace(" ", "\n", 1)
    assert shorten_text(turns, "auto").question.split() == WORDS[-MAX_QUESTION_WORDS:]
    assert shorten_text(turns, "keep-start").question.split() == WORDS[:MAX_QUESTION_WORDS]
    assert shorten_text(LONG, "keep-end").question.split() == WORDS[-MAX_QUESTION_WORDS:]


def test_white_space_within_what_is_kept_stays() -> None:
    text = LONG.replace(" ", " \n ")
    assert shorten_text(text, "keep-end").question == " \n ".join(WORDS[-MAX_QUESTION_WORDS:])
    assert shorten_text(text, "keep-start").question == " \n ".join(WORDS[:MAX_QUESTION_WORDS])


@pytest.mark.parametrize("at", [0, 5, 500, 1_000, len(WORDS)])
def test_a_marked_mention_is_kept_with_its_surroundings(at: int) -> None:
    """KILT's entity linking asks about one place in a long document."""
    marked = [*WORDS[:at], MENTION, "Velm", "[END_ENT]", *WORDS[at:]]
    kept = shorten_text(" ".join(marked), "auto").question.split()
    assert len(kept) == MAX_QUESTION_WORDS
    start = marked.index(kept[0])
    assert kept == marked[start : start + MAX_QUESTION_WORDS]
    assert {MENTION, "Velm", "[END_ENT]"} <= set(kept)


def test_the_note_says_what_was_read() -> None:
    assert shorten_text(LONG, "auto").note == "question shortened: the first 1,024 of 1,124 words were read"
    assert shorten_text(LONG, "skip") == (
        " ".join(WORDS[:MAX_QUESTION_WORDS]),
        "question skipped: it has 1,124 words, at most 1,024 can be read",
        True,
    )
    with pytest.raises(RecordError, match="the question has 1,124 words; at most 1,024 are accepted"):
        shorten_text(LONG, "fail")


def test_text_without_spaces_has_a_limit_of_its_own() -> None:
    short = shorten_text("灯" * 20_000 + "台", "keep-end")
    assert short.question == "灯" * (MAX_QUESTION_CHARACTERS - 1) + "台"
    assert short.note == "question shortened: the last 16,384 of 20,001 characters were read"


@given(length=st.integers(1, 3_000), most=st.integers(1, 2_048), centre=st.integers(0, 3_000))
def test_a_window_has_as_many_tokens_as_fit_and_the_mention_among_them(length: int, most: int, centre: int) -> None:
    for part in ("start", "end", "around"):
        start, stop = token_window(length, most, part, min(centre, length - 1))
        assert 0 <= start < stop <= length
        assert stop - start == min(length, most)
        if part == "around":
            assert start <= min(centre, length - 1) < stop
    assert token_window(length, most, "start", 0)[0] == 0
    assert token_window(length, most, "end", 0)[1] == length


def test_a_mention_comes_before_turns() -> None:
    assert kept_part(f"a\nb {MENTION} c", "auto") == "around"
    assert kept_part("a\nb", "auto") == "end"
    assert kept_part("a b", "auto") == "start"
    assert kept_part(f"a\nb {MENTION} c", "keep-start") == "start"


def test_a_file_counts_its_long_questions(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"id": n, "input": text}) + "\n" for n, text in enumerate(["who?", LONG])))
    with pytest.raises(InputError, match=r"q.jsonl:2: the question has 1,124 words"):
        open_queries(path)
    rules: list[tuple[LongQuestions, bool]] = [("auto", False), ("skip", True)]
    for rule, skipped in rules:
        queries = open_queries(path, long_questions=rule)
        assert (queries.count, queries.long) == (2, 1)
        first, second = queries
        assert (first.note, first.skipped) == (None, False)
        assert second.note is not None
        assert second.skipped == skipped
