"""Query files: checked whole before work begins, then read as a stream.

`open_queries` goes through a file once, names every bad line, and returns a `QueryFile` that knows how many queries
there are and where every thousandth begins. Answering then reads it a second time without holding more than it works
on; a resumed job or a worker with one part of the file starts in its middle. The checking pass keeps a hash and a
line number of each id.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from ... import InputError, UsageError
from ...storage.inputs import InputFile, open_bytes, plain_file
from ...storage.paths import local_path
from .kilt import Problems
from .long_questions import LONG_QUESTIONS, MAX_QUESTION_WORDS, LongQuestions
from .query import Candidate, Mark, Query
from .query_detect import detect
from .query_formats import items
from .query_layout import FORMATS, Layout

__all__ = [
    "FORMATS",
    "LONG_QUESTIONS",
    "MAX_QUESTION_WORDS",
    "Candidate",
    "LongQuestions",
    "Query",
    "QueryFile",
    "open_queries",
]

MARK_EVERY = 1_000
"""Queries between two remembered offsets of the file."""


@dataclass(frozen=True, kw_only=True)
class QueryFile:
    """A query file found sound.

    Attributes:
        source: its plain bytes: the file itself, or a temporary copy of a stream or of a compressed file, which lives
            as long as this object.
        name: how messages call it.
        format: one of `FORMATS`.
        count: queries in it.
        digest: hex digest of ids, questions and given passages in order: names the query set, whatever file it is in.
        with_gold: queries that have gold outputs.
        with_candidates: queries that bring their passages, of which `without_provenance` were to and have none.
        long: queries shortened or skipped because their question is beyond what a question file may hold.
        longest: words of the longest question.
    """

    source: InputFile
    name: str
    format: str
    count: int
    digest: str
    with_gold: int
    with_candidates: int
    without_provenance: int
    long: int
    longest: int
    layout: Layout = field(repr=False)
    marks: tuple[Mark, ...] = field(repr=False)

    @property
    def path(self) -> Path:
        """Where its plain bytes are."""
        return self.source.path

    @property
    def copied(self) -> bool:
        """Whether `path` is a temporary copy on this machine."""
        return self.name == "<stdin>" or local_path(self.name) != self.path

    @property
    def fields(self) -> dict[str, str]:
        """Which field of the file is what: `{"id": "qid", "question": "query"}`."""
        counted = "row number" if self.format in ("csv", "tsv") else "position (from 0)"
        return {"id": counted} | self.layout.fields.described()

    @property
    def description(self) -> str:
        """One line for people: `q.csv: csv, 2 queries (id from qid, question from query)`."""
        used = ", ".join(f"{kind} from {name}" for kind, name in self.fields.items())
        return f"{self.name}: {self.format}, {self.count:,} {'query' if self.count == 1 else 'queries'} ({used})"

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Query]:
        return self.read()

    def ids(self) -> Iterator[str]:
        """The ids in order."""
        return (query.id for query in self.read())

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Query]:
        """Queries `start` to `stop` (counted from 0, stop left out), in order.

        Raises:
            InputError: the file has changed since it was checked.
        """
        stop = self.count if stop is None else min(stop, self.count)
        if start >= stop:
            return
        mark = self.marks[bisect.bisect_right([mark.index for mark in self.marks], start) - 1]
        index = mark.index
        with open_bytes(self.source) as handle:
            for item in items(handle, self.name, self.layout, mark):
                if item.query is None:
                    raise InputError(f"{item.place}: {item.problem}; the file was changed after it was checked")
                if index >= start:
                    yield item.query
                index += 1
                if index >= stop:
                    return
        raise InputError(
            f"{self.name}: ends after {index} queries, had {self.count}; it was changed after it was checked"
        )


def open_queries(
    path: str | Path | InputFile,
    *,
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    provenance_as_candidates: bool = False,
    long_questions: LongQuestions = "fail",
    stdin: BinaryIO | None = None,
    progress: Callable[[int], None] | None = None,
) -> QueryFile:
    """Checks a whole query file.

    Args:
        path: the file, plain or compressed, a pipe, or "-" for standard input.
        format: one of `FORMATS`; None finds out from the content.
        fields: names of fields that are not known: "question", "id", "answers" -> key or column.
        provenance_as_candidates: KILT files: a record's gold provenance is what it is answered from.
        long_questions: what is done with a question beyond the limits of `long_questions`.
        stdin: what to read for "-"; standard input if None.
        progress: called now and then with the number of records seen.

    Raises:
        InputError: bad lines, duplicate ids or no query at all; every bad line is named (the first twenty in words). A
            file whose question cannot be told.
        UsageError: the format does not exist, or `fields` do not fit it.
        StorageError: the file cannot be read, or a stream cannot be copied.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"no query format {format!r}; there are: {', '.join(FORMATS)}")
    source = path if isinstance(path, InputFile) else plain_file(path, stdin=stdin)
    with open_bytes(source) as handle:
        layout = detect(handle, source.name, format, fields)
        if provenance_as_candidates and layout.format != "kilt":
            raise UsageError(f"{source.name} is a {layout.format} file; only KILT records have provenance")
        layout = replace(layout, provenance=provenance_as_candidates, long_questions=long_questions)
        return _check(handle, source, layout, progress)


def _check(handle: BinaryIO, source: InputFile, layout: Layout, progress: Callable[[int], None] | None) -> QueryFile:
    name = source.name
    problems = Problems()
    first_lines: dict[bytes, int] = {}
    marks: list[Mark] = []
    digest = hashlib.blake2b(digest_size=16)
    count = with_gold = with_candidates = without_provenance = long = longest = 0
    for item in items(handle, name, layout):
        if item.mark.index % MARK_EVERY == 0:
            marks.append(item.mark)
            if progress is not None:
                progress(item.mark.index)
        query = item.query
        if query is None:
            rest = "; what follows could not be checked" if item.fatal else ""
            problems.add(item.place, item.problem + rest)
            continue
        key = hashlib.blake2b(query.id.encode(), digest_size=16).digest()
        if key in first_lines:
            problems.add(item.place, f"id {query.id!r} is already used at line {first_lines[key]}")
            continue
        first_lines[key] = item.mark.line
        count += 1
        with_gold += query.outputs is not None
        with_candidates += query.candidates is not None
        without_provenance += query.candidates == ()
        long += query.note is not None
        longest = max(longest, len(query.question.split()))
        for text in (query.id, query.question, repr(query.candidates)):
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    problems.raise_if_any(name)
    if not count:
        raise InputError(f"{name} holds no query")
    if layout.provenance and without_provenance == count:
        raise InputError(f"{name}: none of its {count:,} records has provenance to take candidates from")
    return QueryFile(
        source=source,
        name=name,
        format=layout.format,
        count=count,
        digest=digest.hexdigest(),
        with_gold=with_gold,
        with_candidates=with_candidates,
        without_provenance=without_provenance,
        long=long,
        longest=longest,
        layout=layout,
        marks=tuple(marks),
    )
