"""Query files that are tables: rows of quoted cells (csv), or lines cut at tabs (tsv), as MS MARCO and DPR have."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from .kilt import MAX_LINE_BYTES, RecordError, parse_id
from .query import Item, Mark, Query, parsed
from .query_fields import cell_answers, literal_answers
from .query_json import make_query
from .query_layout import Layout


def csv_items(handle: BinaryIO, name: str, layout: Layout, start: Mark) -> Iterator[Item]:
    """Rows of quoted cells, which may hold delimiters and line ends."""
    offset, number, broken = start.offset, start.line, ""

    def lines() -> Iterator[str]:
        nonlocal offset, number, broken
        while line := handle.readline(MAX_LINE_BYTES + 1):
            content = line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line
            offset += len(line)
            number += 1
            try:
                yield content.decode("utf-8")
            except UnicodeDecodeError as error:
                broken = f"not valid UTF-8 at byte {error.start} of the line"
                yield content.decode("utf-8", "replace")

    rows = csv.reader(lines(), delimiter=layout.delimiter, strict=True)
    leading = layout.leading if start.offset == 0 else 0
    index = start.index
    while True:
        mark = Mark(index, number, offset)
        broken = ""
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            # The reader has lost its place: what follows would be guesswork.
            yield Item(mark, f"{name}:{mark.line}", None, f"not valid CSV: {error}", fatal=True)
            return
        if not any(cell.strip() for cell in row):
            continue
        if leading:
            leading -= 1
        elif broken:
            yield Item(mark, f"{name}:{mark.line}", None, broken)
            index += 1
        else:
            yield parsed(mark, name, lambda row=row, mark=mark: _row_query(row, layout, mark))  # type: ignore[misc]
            index += 1


def tsv_items(handle: BinaryIO, name: str, layout: Layout, start: Mark) -> Iterator[Item]:
    """Lines cut at tabs: quotation marks are characters, but for a cell that is quoted as a whole."""
    leading = layout.leading if start.offset == 0 else 0
    index, number, offset = start.index, start.line, start.offset
    while line := handle.readline(MAX_LINE_BYTES + 1):
        mark = Mark(index, number, offset)
        if len(line) > MAX_LINE_BYTES:
            problem = f"the line is longer than {MAX_LINE_BYTES >> 20} MiB"
            yield Item(mark, f"{name}:{number}", None, problem, fatal=True)
            return
        content = line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line
        if content.strip():
            if leading:
                leading -= 1
            else:
                yield parsed(mark, name, lambda content=content, mark=mark: _line_query(content, layout, mark))  # type: ignore[misc]
                index += 1
        number += 1
        offset += len(line)


def tab_cells(line: str) -> list[str]:
    """The cells of a line between tabs; one that is quoted as a whole loses its quotes."""
    return [_bare(cell) for cell in line.rstrip("\r\n").split("\t")]


def _bare(cell: str) -> str:
    if len(cell) < 2 or not (cell.startswith('"') and cell.endswith('"')):
        return cell
    inner = cell[1:-1]
    return inner.replace('""', '"') if '"' not in inner.replace('""', "") else cell


def _line_query(content: bytes, layout: Layout, mark: Mark) -> Query:
    try:
        line = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"not valid UTF-8 at byte {error.start} of the line") from None
    return _row_query(tab_cells(line), layout, mark)


def _row_query(row: Sequence[str], layout: Layout, mark: Mark) -> Query:
    if len(row) != layout.width:
        others = "the header has" if layout.leading else "the others have"
        raise RecordError(f"{len(row)} cells, but {others} {layout.width}")
    outputs = None
    if layout.answers is not None:
        cell = row[layout.answers]
        if layout.answer_lists and literal_answers(cell) is None:
            raise RecordError(f"{cell[:40]!r} is not a list of answers such as ['a', \"b\"]")
        outputs = cell_answers(cell)
    return make_query(
        layout,
        id=parse_id(row[layout.id]) if layout.id is not None else str(mark.index + 1),
        question=row[layout.question],
        outputs=outputs,
        task=(row[layout.task] or None) if layout.task is not None else None,
    )
