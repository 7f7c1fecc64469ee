"""Rows of a tab-separated file some of whose fields a CSV writer put in double quotes.

A line that has the right number of columns is a row. One that has not, or whose last field opens a quotation and does
not close it, is read by CSV's rules together with the lines after it; where these give no row of the right width, the
line stands alone and the lines after it are looked at again.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from .article import Lines
from .records import unquoted

_MOST_LINES: Final = 100
_MOST_BYTES: Final = 1 << 22
_QUOTED: Final = re.compile(r'"((?:[^"]++|"")*+)"')
_PLAIN: Final = re.compile(r"[^\t]*+")


class Row(NamedTuple):
    """A row: the number of its first line, its raw bytes, and its fields, None where it has none of that width."""

    number: int
    line: bytes
    fields: list[str] | None


class QuotedRows:
    """The rows of numbered `lines`, each of `width` columns where that can be."""

    def __init__(self, lines: Lines, *, width: int) -> None:
        self._lines = iter(lines)
        self._width = width
        self._ahead: deque[tuple[int, bytes]] = deque()

    def __iter__(self) -> Iterator[Row]:
        while (first := self._next()) is not None:
            number, line = first
            cells = line.split(b"\t")
            right = len(cells) == self._width
            if (right and not _opens(cells[-1])) or b'"' not in line:
                yield Row(number, line, _plain(cells) if right else None)
            else:
                yield self._joined(number, line) or Row(number, line, _plain(cells) if right else None)

    def _next(self) -> tuple[int, bytes] | None:
        return self._ahead.popleft() if self._ahead else next(self._lines, None)

    def _joined(self, number: int, line: bytes) -> Row | None:
        """The row that begins with `line` and continues in the lines after it; None where there is none.

        A quotation is open while the quotation marks so far are odd in number. A line after it that could be a row of
        its own ends the attempt, unless its first field is where the quotation closes.
        """
        parts, last, size, taken = [line], number, len(line), 0
        marks = line.count(b'"')
        while marks % 2:
            if taken == len(self._ahead):
                following = next(self._lines, None)
                if following is None:
                    return None
                self._ahead.append(following)
            at, more = self._ahead[taken]
            alone = is_row(more, self._width)
            taken, size = taken + 1, size + len(more)
            if alone or taken > _MOST_LINES or size > _MOST_BYTES:
                return None
            parts.append(b"\n" * (at - last) + more)
            marks += more.count(b'"')
            last = at
        raw = b"".join(parts)
        fields = _fields(raw)
        if fields is None or len(fields) != self._width:
            return None
        for _ in range(taken):
            self._ahead.popleft()
        return Row(number, raw, fields)


def is_row(line: bytes, width: int) -> bool:
    """Whether a line begins a row of `width` columns, whatever stands before it: it never continues another."""
    return line.count(b"\t") == width - 1 and b'"' not in line.partition(b"\t")[0]


def _opens(cell: bytes) -> bool:
    """Whether a field opens a quotation that it does not close."""
    return cell.startswith(b'"') and cell.count(b'"') % 2 == 1


def _plain(cells: list[bytes]) -> list[str]:
    return [unquoted(cell.decode("utf-8", "replace")) for cell in cells]


def _fields(raw: bytes) -> list[str] | None:
    """The fields of a whole row by CSV's rules; None where it breaks them."""
    text = raw.decode("utf-8", "replace")
    fields: list[str] = []
    at = 0
    while True:
        quoted = text.startswith('"', at)
        match = (_QUOTED if quoted else _PLAIN).match(text, at)
        if match is None:
            return None
        fields.append(match.group(1).replace('""', '"') if quoted else match.group())
        at = match.end()
        if at == len(text):
            return fields
        if text[at] != "\t":
            return None
        at += 1
