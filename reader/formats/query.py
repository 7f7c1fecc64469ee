"""A question and what stands with it in its file: the records that query files are read into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .kilt import Output, RecordError


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A passage that a query brings along: by text, by id in the memory, by place in the knowledge source, or several.

    Attributes:
        id: the id the file gives it: a memory's passage id, or whatever the file's maker used.
        title, text: its words, where the file has them.
        wikipedia_id, start_paragraph_id, end_paragraph_id: its place, where it comes from KILT provenance.
    """

    id: str | None = None
    title: str | None = None
    text: str | None = None
    wikipedia_id: str | None = None
    start_paragraph_id: int | None = None
    end_paragraph_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question.

    Attributes:
        id: a stripped string, unique in its file. Where the file has none: 1-based line numbers in plain text, 1-based
            row numbers in tables, positions from 0 in JSON.
        question: the text, stripped, within the limits of `long_questions`.
        place: "file:line" where it stands.
        outputs: gold answers and provenance, None where the file has none.
        candidates: the passages it brings, best first; None where retrieval is to find them. Empty where the record's
            provenance was asked for and it has none.
        task: the record's `task`, if it names one.
        note: what was done to a question that was too long, None for all others.
        skipped: it was too long and is not to be answered.
    """

    id: str
    question: str
    place: str
    outputs: tuple[Output, ...] | None = None
    candidates: tuple[Candidate, ...] | None = None
    task: str | None = None
    note: str | None = None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a record begins: its index among the records, its 1-based line and its byte in the file."""

    index: int
    line: int
    offset: int


@dataclass(frozen=True, slots=True)
class Item:
    """A record met in a file: where it begins, and the query or the reason there is none. The place is "file:line"."""

    mark: Mark
    place: str
    query: Query | None
    problem: str = ""
    fatal: bool = False  # nothing after it can be read


def parsed(mark: Mark, name: str, parse: Callable[[], Query]) -> Item:
    """The item of what `parse` returns; a RecordError becomes its problem."""
    place = f"{name}:{mark.line}"
    try:
        return Item(mark, place, replace(parse(), place=place))
    except RecordError as problem:
        return Item(mark, place, None, str(problem))
