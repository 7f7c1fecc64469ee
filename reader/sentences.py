"""Sentences of written English."""

from __future__ import annotations

import re

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"”']?\s+(?=[\"“']?[A-Z0-9])")
_NO_END = re.compile(
    r"(?:\b(?:[A-Z]|St|Mr|Mrs|Ms|Dr|Jr|Sr|No|vs|c|ca|Lt|Gen|Col|Capt|Rev|Prof|approx|etc|Inc|Ltd|Co))\.$"
)


def sentences(text: str) -> list[tuple[int, int]]:
    """Character ranges of a text's sentences, abbreviations aside."""
    starts, found = [0], []
    for end in _SENTENCE_END.finditer(text):
        if not _NO_END.search(text[max(0, end.start() - 8) : end.start()]):
            found.append((starts[-1], end.start()))
            starts.append(end.end())
    found.append((starts[-1], len(text)))
    return [(start, end) for start, end in found if end > start]
