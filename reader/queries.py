"""Query files: checked whole before work begins, then read as a stream.

`open_queries` goes through a file once, names every bad line, and returns a `QueryFile` that knows how many queries
there are and where every thousandth begins. Answering then reads it a second time without holding more than it works
on; a resumed job or a worker with one part of the file starts in its middle. The checking pass keeps a hash and a
line number of each id.
"""

from __future__ import annotations

import bisect
import hashlib
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .. import InputError, StorageError, UsageError
from .kilt import Problems
from .query_formats import FORMATS, MAX_QUESTION_WORDS, Candidate, Layout, Mark, Query, detect, items

__all__ = ["FORMATS", "MAX_QUESTION_WORDS", "Candidate", "Query", "QueryFile", "open_queries"]

MARK_EVERY = 1_000
"""A place is remembered for every so many queries."""


@dataclass(frozen=True, kw_only=True)
class QueryFile:
    """A query file found sound.

    Attributes:
        path: where its bytes are (a temporary copy for standard input, removed with this object).
        name: how messages call it.
        format: one of `FORMATS`.
        count: queries in it.
        digest: hex digest of ids, questions and brought passages in order: names the query set, whatever file it is in.
        with_gold: queries that have gold outputs.
        with_candidates: queries that bring their passages.
        longest: words of the longest question.
    """

    path: Path
    name: str
    format: str
    count: int
    digest: str
    with_gold: int
    with_candidates: int
    longest: int
    layout: Layout = field(repr=False)
    marks: tuple[Mark, ...] = field(repr=False)

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
        with _open(self.path, self.name) as handle:
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
    path: str | Path,
    *,
    format: str | None = None,
    provenance_as_candidates: bool = False,
    stdin: BinaryIO | None = None,
    progress: Callable[[int], None] | None = None,
) -> QueryFile:
    """Checks a whole query file.

    Args:
        path: the file, or "-" for standard input (copied to a temporary file first).
        format: one of `FORMATS`; None finds out from the content.
        provenance_as_candidates: KILT files: a record's gold provenance is what it is answered from.
        stdin: what to read for "-"; standard input if None.
        progress: called now and then with the number of records seen.

    Raises:
        InputError: bad lines, duplicate ids or no query at all; every bad line is named (the first twenty in words).
        UsageError: the format does not exist.
        StorageError: the file cannot be read, or standard input cannot be copied.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"no query format {format!r}; there are: {', '.join(FORMATS)}")
    spooled = str(path) == "-"
    if spooled:
        name, file = "<stdin>", _spool(stdin or sys.stdin.buffer)
    else:
        name, file = str(path), Path(path)
    try:
        with _open(file, name) as handle:
            layout = detect(handle, name, format)
            if provenance_as_candidates:
                if layout.format != "kilt":
                    raise UsageError(f"{name} is a {layout.format} file; only KILT records have provenance")
                layout = Layout(format="kilt", provenance=True)
            result = _check(handle, file, name, layout, progress)
    except BaseException:
        if spooled:
            file.unlink(missing_ok=True)
        raise
    if spooled:
        weakref.finalize(result, file.unlink, missing_ok=True)
    return result


def _check(
    handle: BinaryIO, path: Path, name: str, layout: Layout, progress: Callable[[int], None] | None
) -> QueryFile:
    problems = Problems()
    first_lines: dict[bytes, int] = {}
    marks: list[Mark] = []
    digest = hashlib.blake2b(digest_size=16)
    count = with_gold = with_candidates = longest = 0
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
        longest = max(longest, len(query.question.split()))
        for text in (query.id, query.question, repr(query.candidates)):
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    problems.raise_if_any(name)
    if not count:
        raise InputError(f"{name} holds no query")
    return QueryFile(
        path=path,
        name=name,
        format=layout.format,
        count=count,
        digest=digest.hexdigest(),
        with_gold=with_gold,
        with_candidates=with_candidates,
        longest=longest,
        layout=layout,
        marks=tuple(marks),
    )


def _open(path: Path, name: str) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{name} is a directory; give a query file") from None
    except OSError as error:
        raise StorageError(f"{name} cannot be read: {error.strerror}") from error


def _spool(stream: BinaryIO) -> Path:
    """Standard input as a file: it must be read twice."""
    try:
        with tempfile.NamedTemporaryFile(prefix="glimmer-queries-", delete=False) as copy:
            shutil.copyfileobj(stream, copy)
        return Path(copy.name)
    except OSError as error:
        raise StorageError(f"standard input cannot be copied to {tempfile.gettempdir()}: {error.strerror}") from error
