"""A made-up corpus to change, for tests of refresh: articles of three paragraphs, and what a memory holds of them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from glimmer.storage.memory import Memory

Texts = Mapping[str, Sequence[str]]
"""Article id -> its paragraphs."""


def texts(articles: int, words: int = 30) -> dict[str, list[str]]:
    """Articles of three paragraphs of made-up words; the same numbers give the same text."""
    syllables = ("ka", "lo", "mi", "ter", "nu", "sha", "ven", "or")
    found = {}
    for number in range(articles):
        dice = random.Random(number)
        found[f"a{number}"] = [
            " ".join(dice.choice(syllables) + dice.choice(syllables) for _ in range(words)) + "." for _ in range(3)
        ]
    return found


def write(path: Path, corpus: Texts) -> Path:
    lines = [
        json.dumps({"wikipedia_id": name, "wikipedia_title": f"Title of {name}", "text": [f"Title of {name}", *body]})
        for name, body in corpus.items()
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def payload(path: str | Path, version: int | None = None) -> dict[str, bytes]:
    """passage id -> its stored codes and length."""
    opened = Memory.open(path, version)
    positions = np.arange(opened.passages)
    codes, lengths = opened.fetch(positions)
    return {name: lengths[i].tobytes() + codes[i].tobytes() for i, name in enumerate(opened.ids(positions))}
