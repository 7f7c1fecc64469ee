"""Questions that are too long: which part of them is read.

Two limits exist. A question file is read up to `MAX_QUESTION_WORDS` words or `MAX_QUESTION_CHARACTERS` characters a
question, whatever the model; the model then reads as many tokens as fit beside a passage. `shorten_text` applies the
first, `token_window` the second, and both keep the same part: the end of a dialogue, where its last turn stands, the
surroundings of a marked mention (KILT's entity linking), the start of anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from ..formats.kilt import RecordError

LONG_QUESTIONS: Final = ("auto", "keep-end", "keep-start", "skip", "fail")
"""What may be done with a question that is too long: shorten it (three ways), answer nothing, refuse the file."""

LongQuestions = Literal["auto", "keep-end", "keep-start", "skip", "fail"]
Part = Literal["end", "start", "around"]

MAX_QUESTION_WORDS: Final = 1_024
"""Longest question read whole, in words between spaces. Real inputs, dialogues and ELI5 posts included, stay below."""

MAX_QUESTION_CHARACTERS: Final = 16_384
"""The same for text without spaces."""

MENTION: Final = "[START_ENT]"
"""KILT's mark before the mention that an entity-linking question asks about."""


@dataclass(frozen=True)
class _Unit:
    """Words or characters: how many a text has, and its first and last `n`."""

    name: str
    most: int
    count: Callable[[str], int]
    first: Callable[[str, int], str]
    last: Callable[[str, int], str]


class Shortened(NamedTuple):
    """A question within the limits; `note` says what was cut, `skipped` that it is not to be answered."""

    question: str
    note: str | None
    skipped: bool


def kept_part(question: str, rule: LongQuestions) -> Part:
    """Which part of `question` is kept if it is too long; turns of a dialogue are lines."""
    if rule == "keep-end":
        return "end"
    if rule == "keep-start":
        return "start"
    if MENTION in question:
        return "around"
    return "end" if "\n" in question else "start"


def shorten_text(question: str, rule: LongQuestions) -> Shortened:
    """`question` (stripped) within the limits of a question file.

    Raises:
        RecordError: it is too long and `rule` is "fail".
    """
    notes = []
    part = kept_part(question, rule)
    for unit in _UNITS:
        count = unit.count(question)
        if count <= unit.most:
            continue
        if rule == "fail":
            raise RecordError(f"the question has {count:,} {unit.name}; at most {unit.most:,} are accepted")
        question = _cut(question, part, unit).strip()
        if rule == "skip":
            return Shortened(question, skipped_note(count, unit.most, unit.name), True)
        notes.append(shortened_note(part, unit.most, count, unit.name))
    return Shortened(question, "; ".join(notes) or None, False)


def shortened_note(part: Part, kept: int, count: int, unit: str) -> str:
    """What a prediction says of its question: which part of it was read."""
    which = {"end": f"the last {kept:,}", "start": f"the first {kept:,}", "around": f"{kept:,} around the mention"}
    return f"question shortened: {which[part]} of {count:,} {unit} were read"


def skipped_note(count: int, most: int, unit: str) -> str:
    """What a prediction says of a question that was not answered."""
    return f"question skipped: it has {count:,} {unit}, at most {most:,} can be read"


def token_window(length: int, most: int, part: Part, centre: int) -> tuple[int, int]:
    """[start, stop) of the `most` tokens read of `length`; `centre` is the mention's first token."""
    most = min(length, most)
    start = {"start": 0, "end": length - most, "around": min(max(centre - most // 2, 0), length - most)}[part]
    return start, start + most


def _cut(text: str, part: Part, unit: _Unit) -> str:
    if part == "start":
        return unit.first(text, unit.most)
    if part == "end":
        return unit.last(text, unit.most)
    at = text.index(MENTION)
    before, after = text[:at], text[at:]
    behind = min(unit.count(after), max(unit.most // 2, unit.most - unit.count(before)))
    return unit.last(before, unit.most - behind) + unit.first(after, behind)


def _first_words(text: str, most: int) -> str:
    rest = text.split(None, most)
    return text if len(rest) <= most else text[: len(text) - len(rest[-1])]


def _last_words(text: str, most: int) -> str:
    rest = text.rsplit(None, most)
    return text if len(rest) <= most else text[len(rest[0]) :]


_UNITS: Final = (
    _Unit("words", MAX_QUESTION_WORDS, lambda text: len(text.split()), _first_words, _last_words),
    _Unit(
        "characters",
        MAX_QUESTION_CHARACTERS,
        len,
        lambda text, most: text[:most],
        lambda text, most: text[max(0, len(text) - most) :],
    ),
)
