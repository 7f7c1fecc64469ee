"""Where an answer stands: the sentence of a passage that holds it, and its place in that sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...storage.passage import Passage
from ..sentences import sentences

_LONGEST: Final = 400  # characters of a sentence; of a longer one the part around the answer is quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A sentence that holds an answer; `str` marks it there.

    Attributes:
        passage: the passage that it is from.
        sentence: its words. Of a sentence longer than 400 characters the part around the answer; the passage's title
            where the answer stands nowhere else.
        start, end: the answer is `sentence[start:end]`.
    """

    passage: Passage
    sentence: str
    start: int
    end: int

    def marked(self, before: str = "**", after: str = "**") -> str:
        """The sentence with the answer between two marks."""
        answer = self.sentence[self.start : self.end]
        return f"{self.sentence[: self.start]}{before}{answer}{after}{self.sentence[self.end :]}"

    def to_json(self) -> dict[str, Any]:
        """The passage's id and title, the sentence and the answer's place in it, as JSON values."""
        return {
            "passage_id": self.passage.passage_id,
            "title": self.passage.title,
            "sentence": self.sentence,
            "start": self.start,
            "end": self.end,
        }

    def __str__(self) -> str:
        return self.marked()


def answer_pattern(answer: str) -> re.Pattern[str] | None:
    """Matches the answer's words in a text, whatever their case and what stands between them; None without a word."""
    words = re.findall(r"\w+", answer)
    return re.compile(r"\b" + r"\W+".join(map(re.escape, words)) + r"\b", re.IGNORECASE) if words else None


def find_quote(answer: str, passages: Sequence[Passage]) -> Quote | None:
    """The sentence that holds the answer, of the first of `passages` (best first) whose text does.

    An answer may run over more than one sentence, which are then quoted together. Where no text holds it, a title may;
    None where neither does.
    """
    pattern = answer_pattern(answer)
    if pattern is None:
        return None
    for passage in passages:
        if found := pattern.search(passage.text):
            start, end = _sentence_around(passage.text, *found.span())
            return _shortened(passage, passage.text[start:end], found.start() - start, found.end() - start)
    # A tokenizer may cut words where the pattern sees none end.
    for passage in passages:
        if (first := passage.text.find(answer)) >= 0:
            start, end = _sentence_around(passage.text, first, first + len(answer))
            return _shortened(passage, passage.text[start:end], first - start, first - start + len(answer))
    for passage in passages:
        if found := pattern.search(passage.title):
            return _shortened(passage, passage.title, *found.span())
    return None


def _sentence_around(text: str, start: int, end: int) -> tuple[int, int]:
    """The characters of the sentences that [start, end) lies in; no sentence goes on in another paragraph."""
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", end)
    paragraph = text[first : len(text) if last < 0 else last]
    ranges = [(first + begin, first + stop) for begin, stop in sentences(paragraph)]
    return max(begin for begin, _ in ranges if begin <= start), min(stop for _, stop in ranges if stop >= end)


def _shortened(passage: Passage, sentence: str, start: int, end: int) -> Quote:
    if len(sentence) <= _LONGEST:
        return Quote(passage=passage, sentence=sentence, start=start, end=end)
    room = max(0, _LONGEST - (end - start)) // 2
    first, last = max(0, start - room), min(len(sentence), end + room)
    if first:  # at the beginning of a word
        first = sentence.find(" ", first, start) + 1 or first
    if last < len(sentence):
        cut = sentence.rfind(" ", end, last)
        last = cut if cut > 0 else last
    before, after = "… " if first else "", " …" if last < len(sentence) else ""
    shift = len(before) - first
    part = f"{before}{sentence[first:last]}{after}"
    return Quote(passage=passage, sentence=part, start=start + shift, end=end + shift)
