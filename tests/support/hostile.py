"""What tests of hostile and damaged files share: what a reader does with a memory, and what an error looks like."""

from __future__ import annotations

from pathlib import Path

from glimmer import GlimmerError
from glimmer.storage.memory import Memory


def look(memory: Path) -> None:
    """Whatever a reader does with a memory."""
    opened = Memory.open(memory)
    opened.texts(range(opened.passages))
    opened.fetch(range(opened.passages))
    list(opened.passage_table())
    opened.history()


def one_line(error: GlimmerError) -> str:
    """The error's text, which must be one line of a readable length."""
    text = str(error)
    assert "\n" not in text
    assert len(text) < 1500
    return text
