"""Questions made from text: cloze questions, descriptions, titles, slots, claims, and copying.

There are never enough human questions; a corpus makes as many as one likes. Take a span out of a sentence, drop some
of the words around it, put a wh-word in front, and a reader that can answer has learnt to find the sentence and to copy
the span (unsupervised question answering by cloze translation: Lewis, Denoyer and Riedel 2019, arXiv 1906.04980). The
other kinds teach what KILT's other tasks ask: a relation of an entity, whether a claim holds. Everything follows from a
random generator, so a seed gives the same questions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from ..sentences import sentences
from .spans import FUNCTION_WORDS, Gazetteer, Kind, Span, plain_title, spans

SUPPORTS, REFUTES = "SUPPORTS", "REFUTES"
_WORDS = re.compile(r"[\w][\w'’.,%-]*[\w%]|\w")
_LEADING = re.compile(r"^(?:it|he|she|they|this|these|its|his|her|their)$", re.IGNORECASE)
_IS = re.compile(r"^(?P<subject>[^.;]{2,120}?)\s(?P<verb>is|was|are|were)\s(?:an?|the)\s(?P<rest>.{8,})$", re.DOTALL)
_CUT = re.compile(
    r",|;|\(|\.(?:\s|$)|\s(?:that|which|who|whom|whose|where|located|born|based|founded|known|used|and|from|since|during"
    r"|with|by|for|on|at|as|created|developed|written|directed|starring|made|found)\s"
)
_BORN_ON = re.compile(r"\(?\b(?:born|b\.)\s(?:on\s)?(?P<date>\w+ \d{1,2}, \d{4}|\d{1,2} \w+ \d{4})")
_BORN_IN = re.compile(r"\b(?:was )?born\b[^.;]{0,40}?\bin (?P<place>[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)*)")
_CAPITAL = re.compile(
    r"\bcapital(?: and largest city| city)? (?:of \w+ )?is (?P<capital>[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)*)"
)

_ASKING: dict[Kind, tuple[str, ...]] = {
    "date": ("when", "when did", "when was", "on what date", "what year"),
    "year": ("when", "when did", "when was", "in what year", "what year did"),
    "count": ("how many",),
    "number": ("how many", "how much", "what", "what number"),
    "person": ("who", "who", "who was", "who is", "which person", "what is the name of"),
    "place": ("where", "where is", "where did", "what place", "in what city", "what country", "which"),
    "name": ("what", "which", "who", "what is the name of", "what was", "who did"),
    "phrase": ("what", "what", "what kind of", "what is", "what did", "what type of", "which"),
}


@dataclass(frozen=True, slots=True)
class Made:
    """A made question: `task` (file it belongs to), `question` and `answer`."""

    task: str
    question: str
    answer: str


def cloze(title: str, text: str, gazetteer: Gazetteer, rng: Random) -> Made | None:
    """A question for a span of one of the text's sentences; None where it has none."""
    start, end = rng.choice(sentences(text))
    sentence = text[start:end]
    name = plain_title(title)
    found = [span for span in spans(sentence, gazetteer) if sentence[span.start : span.end].lower() not in name.lower()]
    if not found or len(sentence.split()) < 6:
        return None
    span = rng.choices(found, [_WANTED[span.kind] for span in found])[0]
    asking = rng.choice(_ASKING[span.kind])
    before, after = _context(sentence, span, rng)
    words = [*before, *after]
    if not any(word.lower() not in FUNCTION_WORDS for word in words):
        return None
    about = name.lower().split()
    if not set(about) & {word.lower() for word in words}:
        if before and _LEADING.match(before[0]):
            before = [*name.split(), *before[1:]]
        elif rng.random() < 0.7:
            before = [*name.split(), *before]
    if span.kind == "count":
        order = [asking, *after, *before]  # "how many <things>" needs what follows the number
    else:
        order = rng.choices(
            ([asking, *before, *after], [asking, *after, *before], [*before, asking, *after]), (0.6, 0.25, 0.15)
        )[0]
    return Made("cloze", " ".join(order).lower(), sentence[span.start : span.end])


_WANTED: dict[Kind, float] = {
    "date": 2.0,
    "year": 1.5,
    "count": 1.2,
    "number": 0.6,
    "person": 3.0,
    "place": 1.5,
    "name": 1.5,
    "phrase": 0.8,
}


def _context(sentence: str, span: Span, rng: Random) -> tuple[list[str], list[str]]:
    """Words before and after a span as a question might keep them: the nearest, some dropped."""
    before = _WORDS.findall(sentence[: span.start])
    after = _WORDS.findall(sentence[span.end :])
    reach = rng.randint(4, 10)
    before, after = before[-reach:], after[: max(2, reach - len(before[-reach:]) + rng.randint(0, 3))]
    if before and before[-1].lower() in ("in", "on", "by", "at", "the", "a", "an", "of", "to", "from", "with"):
        before = before[:-1]

    def kept(words: list[str]) -> list[str]:
        return [word for word in words if rng.random() >= (0.35 if word.lower() in FUNCTION_WORDS else 0.12)]

    return kept(before), kept(after)


def description(title: str, text: str, rng: Random) -> Made | None:
    """What an entity is, from the first sentence of its article."""
    found = _defined(text)
    if found is None:
        return None
    verb, said, _ = found
    name = plain_title(title)
    asking = rng.choice((f"what {verb} {name}", f"what kind of thing {verb} {name}", f"{name} {verb} a"))
    return Made("description", asking.lower(), said)


def title_of(title: str, text: str, rng: Random) -> Made | None:
    """Which entity it is that the first sentence of its article describes."""
    found = _defined(text)
    name = plain_title(title)
    if found is None or not name:
        return None
    verb, _, rest = found
    named = {word.lower() for word in _WORDS.findall(name)}
    words = [word for word in _WORDS.findall(rest)[: rng.randint(7, 14)] if word.lower() not in named]
    kept = [word for word in words if rng.random() >= (0.25 if word.lower() in FUNCTION_WORDS else 0.1)]
    if len(kept) < 4:
        return None
    asking = rng.choice((f"what {verb} the", f"which {verb} the", f"who {verb} the", "name the", "what"))
    return Made("title", f"{asking} {' '.join(kept)}".lower(), name)


def slot(title: str, text: str, rng: Random) -> Made | None:
    """A relation of an entity, in the form of KILT's slot-filling tasks (`entity [SEP] relation`)."""
    found: list[tuple[str, str]] = []
    if (defined := _defined(text)) is not None:
        found.append(("instance of", defined[1]))
    for relation, pattern in (("date of birth", _BORN_ON), ("place of birth", _BORN_IN), ("capital", _CAPITAL)):
        if (match := pattern.search(text)) is not None:
            found.append((relation, match[1]))
    if not found:
        return None
    relation, answer = rng.choice(found)
    return Made("slot", f"{plain_title(title)} [SEP] {relation}", answer)


def claim(title: str, text: str, gazetteer: Gazetteer, others: Sequence[tuple[Kind, str]], rng: Random) -> Made | None:
    """A sentence as it stands, or with a span replaced by one of the same kind from elsewhere (`others`)."""
    start, end = rng.choice(sentences(text))
    sentence = text[start:end]
    if not 6 <= len(sentence.split()) <= 30:
        return None
    about = "" if plain_title(title).lower() in sentence.lower() else f"{plain_title(title)}: "
    if rng.random() < 0.5:
        return Made("claim", about + sentence, SUPPORTS)
    found = [span for span in spans(sentence, gazetteer) if span.kind != "phrase"]
    if not found:
        return None
    span = rng.choice(found)
    true = sentence[span.start : span.end]
    false = [other for kind, other in others if kind == span.kind and other.lower() != true.lower()]
    if not false:
        return None
    return Made("claim", about + sentence[: span.start] + rng.choice(false) + sentence[span.end :], REFUTES)


def copying(text: str, rng: Random, *, most: int = 12) -> Made | None:
    """A few words of a text, to be continued with the next ones: long answers teach copying in few steps."""
    words = text.split()
    if len(words) < most + 8:
        return None
    place = rng.randrange(len(words) - most)
    return Made("copy", " ".join(words[max(0, place - 4) : place + 1]), " ".join(words[place + 1 : place + 1 + most]))


def _defined(text: str) -> tuple[str, str, str] | None:
    """(verb, what it is in a few words, the rest of the sentence) of "X is a …"; None where a text begins otherwise."""
    start, end = sentences(text)[0]
    match = _IS.match(text[start:end].rstrip("."))
    if match is None:
        return None
    rest = match["rest"]
    cut = _CUT.search(rest)
    said = (rest[: cut.start()] if cut else rest).strip()
    if not 1 <= len(said.split()) <= 8 or said.split()[-1].lower() in FUNCTION_WORDS:
        return None
    return match["verb"], said, rest
