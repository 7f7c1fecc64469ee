"""Spans of a text that questions ask for: dates, numbers, names and noun-like phrases, found without any model.

The rules are those of written English in an encyclopaedia: capitals make names, digits make numbers and dates, and a
phrase of ordinary words counts where function words and punctuation fence it in. What kind of thing a name is follows
from the corpus itself: articles say in their first sentence what their title is (`Gazetteer`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["date", "year", "count", "number", "person", "place", "name", "phrase"]

_FUNCTION = """
    a about above after against all also although among an and another any are around as at be became because
    been before being between both but by can could did do does during each either following for from had has
    have he her him his how however if in including into is it its later like made many may more most much near
    no not of off often on one only onto or other others our out over own per said several she should since so
    some such than that the their them themselves then there these they this those though through throughout to
    toward towards two under until up upon us used very was we well were what when where whether which while who
    whom whose why will with within without would you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION.split())
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_OPENERS = frozenset(("a", "an", "the", "of", "by", "with", "for", "as", "in"))
_DATE = re.compile(
    rf"\b(?:(?:{_MONTHS})\s+\d{{1,2}},\s+\d{{4}}|\d{{1,2}}\s+(?:{_MONTHS})\s+\d{{4}}|(?:{_MONTHS})\s+\d{{4}}"
    rf"|(?:{_MONTHS})\s+\d{{1,2}}|\d{{1,2}}\s+(?:{_MONTHS}))\b"
)
_YEAR = re.compile(r"(?<![\d.,])(?:1[0-9]{3}|20[0-9]{2})(?:s)?(?![\d%]|[.,]\d)")
_NUMBERS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|fifty|hundred"
_NUMBER = re.compile(
    rf"(?<![\w.,$£€-])(?:\$|£|€)?(?:\d+(?:,\d{{3}})*(?:\.\d+)?(?:\s(?:million|billion|trillion|percent))?%?|{_NUMBERS})(?![\w-])"
)
_WORD = r"[A-Z][\w'’.-]*\w|[A-Z]"
_NAME = re.compile(rf"(?:{_WORD})(?:\s+(?:(?:of|the|de|la|von|van|del|di|bin|al|for|and)\s+){{0,2}}(?:{_WORD}))*")
_PHRASE = re.compile(r"(?<![\w'’-])[a-z][a-z'-]*[a-z](?:\s[a-z][a-z'-]*[a-z]){0,3}(?![\w’-])")
_KINDS = {
    "person": """actor actress singer songwriter musician composer writer author novelist poet playwright politician
    president emperor king queen general scientist physicist chemist mathematician philosopher economist painter artist
    sculptor architect director filmmaker producer footballer player boxer wrestler athlete swimmer astronaut engineer
    inventor explorer businessman businesswoman lawyer judge theologian saint pope monarch ruler historian
    psychologist biologist physician surgeon model comedian rapper dancer leader activist journalist pharaoh sultan
    statesman revolutionary nurse aviator entrepreneur conductor pianist guitarist drummer magician""",
    "place": """city town village country state province county region district capital island islands continent river
    lake sea ocean mountain desert peninsula republic kingdom municipality suburb neighborhood neighbourhood nation
    territory commune canton prefecture borough gulf bay strait valley castle palace park stadium airport bridge""",
}
_NOUNS = {noun: kind for kind, nouns in _KINDS.items() for noun in nouns.split()}
_IS = re.compile(r"\b(?:is|was|are|were)\s+(?:(?:an?|the|one of the)\s+)")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters [start, end) of a text, and what they seem to be."""

    start: int
    end: int
    kind: Kind


@dataclass
class Gazetteer:
    """What is known of names from the first sentences of articles.

    Attributes:
        titles: kind of whole titles, "person" or "place".
        first_names: how often a word begins a person's title.
    """

    titles: dict[str, Kind] = field(default_factory=dict)
    first_names: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, articles: Iterable[tuple[str, str]]) -> Gazetteer:
        """From (title, text that begins with the article's first sentence)."""
        made = cls()
        for title, text in articles:
            name = plain_title(title)
            kind = described_kind(text)
            if kind is not None and name:
                made.titles[name] = kind
                if kind == "person" and " " in name:
                    made.first_names[name.split()[0]] += 1
        return made

    def kind(self, name: str) -> Kind:
        """ "person", "place", or "name" where nothing is known."""
        if name in self.titles:
            return self.titles[name]
        words = name.split()
        if 2 <= len(words) <= 4 and self.first_names[words[0]] > 0:
            return "person"
        return "name"


def plain_title(title: str) -> str:
    """A title without what is in brackets after it."""
    return re.sub(r"\s*\([^)]*\)$", "", title).strip()


def described_kind(text: str) -> Kind | None:
    """What a first sentence ("X was a French painter who …") says its subject is; None where it says neither."""
    found = _IS.search(text[:300])
    if found is None:
        return None
    for word in re.findall(r"[a-z]+", text[found.end() : found.end() + 90].lower())[:9]:
        if word in ("who", "which", "that", "in", "of", "by", "for"):
            return None
        if word in _NOUNS:
            return _NOUNS[word]  # type: ignore[return-value]
    return None


def spans(sentence: str, gazetteer: Gazetteer) -> list[Span]:
    """The spans of one sentence, none overlapping another, in their order."""
    taken: list[Span] = []

    def add(start: int, end: int, kind: Kind) -> None:
        if end > start and all(end <= span.start or span.end <= start for span in taken):
            taken.append(Span(start, end, kind))

    for match in _DATE.finditer(sentence):
        add(*match.span(), "date")
    for match in _YEAR.finditer(sentence):
        add(*match.span(), "year")
    for match in _NUMBER.finditer(sentence):
        after = re.match(r"\s+([a-z]{3,})", sentence[match.end() :])
        add(*match.span(), "count" if after and after[1] not in FUNCTION_WORDS else "number")
    for match in _NAME.finditer(sentence):
        name = match[0]
        start = match.start()
        first = name.split()[0]
        if first.lower() in FUNCTION_WORDS:  # "The Treaty of Rome" at a sentence's start
            if " " not in name:
                continue
            start += len(first) + 1
            name = name[len(first) + 1 :]
        elif start == 0 and " " not in name:
            continue
        name = re.sub(r"[.'’-]+$", "", name)
        add(start, start + len(name), _placed(gazetteer.kind(name), sentence[:start]))
    for match in _PHRASE.finditer(sentence):
        for start, end in _fenced(sentence, *match.span()):
            add(start, end, "phrase")
    return sorted(taken, key=lambda span: span.start)


def _placed(kind: Kind, before: str) -> Kind:
    """What stands before an unknown name may tell what it is."""
    if kind == "name" and re.search(r"\b(?:in|at|near|from|born in|located in)\s+(?:the\s+)?$", before):
        return "place"
    return kind


def _fenced(sentence: str, start: int, end: int) -> Iterable[tuple[int, int]]:
    """Runs of one to four content words after a function word and before one, or punctuation."""
    words = [(match.start() + start, match.end() + start) for match in re.finditer(r"\S+", sentence[start:end])]
    run: list[tuple[int, int]] = []
    for begin, stop in [*words, (end, end)]:
        word = sentence[begin:stop]
        if word and word not in FUNCTION_WORDS and not word.endswith("ly"):
            run.append((begin, stop))
            continue
        if run:
            before = sentence[: run[0][0]].split()
            follows = sentence[run[-1][1] : run[-1][1] + 1]
            closed = word in FUNCTION_WORDS or follows in ",.;:)"
            if closed and before and before[-1].lower() in _OPENERS:
                yield run[0][0], run[-1][1]
        run = []
