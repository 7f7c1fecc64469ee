"""Questions as people ask them, from sentences of a known pattern: who directed it, when was she born, where is it.

Cloze questions (`cloze`) can be made of any sentence but read like telegrams. A few dozen patterns of encyclopedic
prose say who did what, when and where plainly enough to be asked about in plain words, which is how human questions
come. Each rule is a pattern with one group, the answer, and the ways to ask for it; `{x}` is what the article is about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from ..sentences import sentences
from .cloze import Made
from .spans import FUNCTION_WORDS, plain_title

_CAPITALISED = r"[A-Z][\w'’.-]*[\w’]"
_NAME = rf"({_CAPITALISED}(?:(?: (?:de|van|von|of the|of|la|du|al|bin|ibn|and|&))* {_CAPITALISED})*)"
_YEAR = r"(?:1\d{3}|20[0-4]\d)"
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DATE = rf"({_MONTH} \d{{1,2}}, {_YEAR}|\d{{1,2}} {_MONTH} {_YEAR}|{_MONTH} {_YEAR}|{_YEAR})"
_NUMBER = r"(\d[\d,.]*(?: (?:million|billion|thousand))?|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_MOST_WORDS = 18
_GAP = r"[^.;]{0,60}?"
_SUBJECT = re.compile(
    r"^(?:it|he|she|they|the (?:film|song|album|book|novel|series|show|city|band|company|game))\b", re.I
)


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    asks: tuple[str, ...]


def _by(verbs: str, *asks: str) -> _Rule:
    return _Rule(re.compile(rf"\b(?:{verbs})(?: and \w+)? by (?:the )?(?:[a-z]+ )?{_NAME}"), asks)


def _when(verbs: str, *asks: str) -> _Rule:
    return _Rule(re.compile(rf"\b(?:{verbs})\b{_GAP}\b(?:in|on) {_DATE}"), asks)


def _where(verbs: str, *asks: str) -> _Rule:
    return _Rule(re.compile(rf"\b(?:{verbs}) (?:the )?{_NAME}"), asks)


_RULES = (
    _by("directed", "who directed {x}", "who was the director of {x}", "who was {x} directed by"),
    _by("written", "who wrote {x}", "who is the author of {x}", "{x} was written by"),
    _by("produced", "who produced {x}"),
    _by("composed", "who composed {x}", "who wrote the music of {x}"),
    _by("founded|established", "who founded {x}", "who was the founder of {x}", "who started {x}"),
    _by("created|devised", "who created {x}", "who is the creator of {x}", "who came up with {x}"),
    _by("designed", "who designed {x}", "who was the architect of {x}"),
    _by("discovered", "who discovered {x}", "who was the first to discover {x}"),
    _by("invented", "who invented {x}", "who is the inventor of {x}"),
    _by("developed", "who developed {x}", "who makes {x}"),
    _by("built|constructed", "who built {x}"),
    _by("painted", "who painted {x}"),
    _by("performed|recorded|sung|released", "who sang {x}", "who sings {x}", "who sings the song {x}"),
    _by("published", "who published {x}"),
    _by("played|portrayed", "who played {x}", "who plays {x}", "who plays the role of {x}"),
    _by("owned", "who owns {x}"),
    _by("led|headed|ruled|governed", "who led {x}", "who is the leader of {x}"),
    _by("hosted|presented", "who hosts {x}", "who is the host of {x}"),
    _Rule(
        re.compile(rf"\b(?:starring|stars|starred) (?:[a-z]+ )?{_NAME}"),
        ("who stars in {x}", "who starred in {x}", "who is in the movie {x}", "who plays in {x}"),
    ),
    _Rule(
        re.compile(rf"\bnamed (?:after|for|in honou?r of) (?:the )?(?:[a-z]+ )?{_NAME}"),
        ("who was {x} named after", "what is {x} named after", "{x} is named after"),
    ),
    _Rule(
        re.compile(rf"\b(?:married(?: to)?|wife,|husband,|wife of|husband of) (?:[a-z]+ )?{_NAME}"),
        ("who was {x} married to", "who did {x} marry"),
    ),
    _Rule(re.compile(rf"\(?\b(?:born|b\.)(?: on)? {_DATE}"), ("when was {x} born", "what year was {x} born")),
    _Rule(re.compile(rf"\bdied\b{_GAP}\b(?:on|in) {_DATE}"), ("when did {x} die", "what year did {x} die")),
    _when("founded|established|formed", "when was {x} founded", "what year was {x} established", "when did {x} start"),
    _when("built|constructed|completed", "when was {x} built", "what year was {x} built"),
    _when("released", "when was {x} released", "when did {x} come out", "what year did {x} come out"),
    _when("published", "when was {x} published", "when was {x} written", "what year was {x} published"),
    _when("premiered|debuted|aired", "when did {x} first air", "when did {x} start", "when does {x} come out"),
    _when("discovered", "when was {x} discovered"),
    _when("invented|introduced", "when was {x} invented", "when was {x} introduced", "when did {x} come out"),
    _when("launched|opened", "when was {x} launched", "when did {x} open"),
    _when("signed|adopted|ratified|enacted|passed", "when was {x} signed", "when was {x} passed"),
    _when("elected|appointed|crowned|inaugurated", "when was {x} elected", "when did {x} become leader"),
    _when("began|started|begins", "when did {x} begin", "when did {x} start"),
    _when("ended|ceased|closed|dissolved|abolished", "when did {x} end", "what year did {x} end"),
    _when("held|took place|occurred|fought|happened", "when was {x}", "when did {x} take place", "when did {x} happen"),
    _when("joined|admitted|became part of", "when did {x} join", "when did {x} become a member"),
    _Rule(
        re.compile(rf"\bborn\b{_GAP}\bin (?:the )?{_NAME}"),
        ("where was {x} born", "where is {x} from", "in what city was {x} born"),
    ),
    _where(
        "located (?:in|on|at|near)|situated (?:in|on)|lies in|found in|based in", "where is {x}", "where is {x} located"
    ),
    _where("headquartered in", "where is {x} based", "where is the headquarters of {x}"),
    _where("set in|takes place in|took place in", "where is {x} set", "where does {x} take place"),
    _where("filmed in|filmed at|shot in", "where was {x} filmed", "where did they film {x}"),
    _where("native to|indigenous to", "where is {x} from", "where does {x} grow", "what is {x} native to"),
    _where("flows into|empties into", "where does {x} end", "what does {x} flow into"),
    _where(
        "city in|town in|river in|region of|state of|province of|island in|mountain in|lake in",
        "where is {x}",
        "which country is {x} in",
        "what country is {x} in",
    ),
    _Rule(re.compile(rf"\bcapital(?: and [\w ]+ city)? of (?:the )?{_NAME}"), ("what is {x} the capital of",)),
    _Rule(re.compile(rf"\bcapital(?: and [\w ]+ city| city)? is {_NAME}"), ("what is the capital of {x}",)),
    _Rule(
        re.compile(rf"\bpopulation (?:of|was|is)(?: about| around| over| approximately| more than)? {_NUMBER}"),
        ("what is the population of {x}", "how many people live in {x}"),
    ),
    _Rule(
        re.compile(
            rf"\b(?:also|commonly|often|sometimes|formerly|better) (?:known|called|referred to) as (?:the )?{_NAME}"
        ),
        ("what is {x} also known as", "what is another name for {x}", "what is {x} also called"),
    ),
)
_OF_SOMEONE = re.compile(r" [a-z]+ [A-Z]")
_HOW_MANY = re.compile(
    rf"\b(?:has|have|had|contains?|consists? of|comprises|includes?|divided into) {_NUMBER} (?P<of>[a-z]+s)\b"
)
_MOST = re.compile(
    r"^(?:the )?(?P<x>[^,.;()]{2,60}?) (?P<verb>is|was|are|were) (?P<what>the (?:[\w-]+ )?"
    r"(?:largest|smallest|longest|highest|tallest|oldest|deepest|first|last|only|most [\w-]+|best-\w+)\b"
    r"[^.;,()]{5,80})",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a text says plainly: the ways to ask for it, and the answer as it stands there."""

    asks: tuple[str, ...]
    answer: str


def statements(title: str, text: str) -> list[Statement]:
    """Every statement about what an article is about that a rule finds in `text`, in its order."""
    name = plain_title(title)
    if not name:
        return []
    found: list[Statement] = []
    for number, (start, end) in enumerate(sentences(text)):
        sentence = text[start:end]
        if number > 0 and not (name.lower() in sentence.lower() or _SUBJECT.match(sentence)):
            continue
        for rule in _RULES:
            for match in rule.pattern.finditer(sentence):
                answer = _whole(match[1])
                if _OF_SOMEONE.match(sentence, match.end(1)):  # "the English author Jane Austen"
                    continue
                if answer and answer.lower() not in name.lower():
                    found.append(Statement(tuple(ask.format(x=name) for ask in rule.asks), answer))
        if (counted := _HOW_MANY.search(sentence)) is not None:
            things = counted["of"]
            ways = (f"does {name} have", f"are in {name}", f"are there in {name}")
            found.append(Statement(tuple(f"how many {things} {way}" for way in ways), counted[1]))
        if number == 0 and (most := _MOST.match(sentence)) is not None:
            words = ("what", "which", "who" if " " in name else "what")
            found.append(Statement(tuple(f"{word} {most['verb']} {most['what']}" for word in words), most["x"]))
    return found


def fact(found: Sequence[Statement], rng: Random) -> Made | None:
    """A question about one of `statements`; None where there are none, or it would be longer than people ask."""
    if not found:
        return None
    question, answer = rng.choice([(rng.choice(each.asks), each.answer) for each in found])
    words = question.lower().split()
    if len(words) > _MOST_WORDS:
        return None
    # People leave small words out, but not where a question begins or ends.
    inner = range(3, len(words) - 1)
    kept = [
        word
        for place, word in enumerate(words)
        if place not in inner or word not in FUNCTION_WORDS or rng.random() >= 0.1
    ]
    return Made("fact", " ".join(kept), answer)


def _whole(answer: str) -> str:
    """A name without the full stop or connecting words that a pattern took along."""
    return re.sub(r"(?: (?:and|of|of the|de|van|von|la|du|al|&))+$", "", answer.rstrip(" .,-"))
