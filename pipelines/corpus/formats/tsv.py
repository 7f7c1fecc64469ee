"""Tab-separated tables: DPR's `psgs_w100.tsv` (id, text, title), and any other with a header of known names.

They are written by CSV writers, so a field in double quotes is unquoted and may hold tabs and line breaks; a text that
merely begins with a quotation mark is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from ..article import Article, Record, clean_id, clean_title, decode, need_text, row_id, text_paragraphs
from ..fields import FieldNames
from ..lines import line_spans, read_lines
from ..quoted import QuotedRows, Row, is_row
from ..record_layout import Layout
from ..records import unquoted
from ..rejects import RecordError, Rejection, snippet
from ..sample import Sample
from ..source_file import SourceFile, Span
from .base import Advance, Skip
from .format_registry import register_format

DPR_COLUMNS: Final = ("id", "text", "title")
_DOCUMENT_NAMES: Final = frozenset({"body", "document", "content", "contents"})  # texts that nobody cut yet
_NAME: Final = re.compile(r"[A-Za-z_][\w .-]{0,40}")
_OTHER_NAMES: Final = frozenset(
    {"query-id", "corpus-id", "query_id", "query", "qid", "question", "answer", "answers", "score", "relevance"}
)


class Dpr:
    """Passages in three columns, cut by others; a header may give them in another order."""

    name = "dpr"

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        if sample.container != "text" or names.chosen:
            return None
        cells = cells_of(sample.lines[0])
        header = sorted(cells) == sorted(DPR_COLUMNS)
        if not (header or forced) and (is_header(cells) or not any(map(_is_passage, sample.lines))):
            return None
        order = cells if header else list(DPR_COLUMNS)
        columns = {name: order.index(name) for name in DPR_COLUMNS}
        used = {role: role for role in ("id", "title", "text")}
        return Layout(used=used, whole=True, columns=columns, width=3, header=header)

    def split(self, file: SourceFile, layout: Layout, size: int) -> Sequence[Span]:
        return line_spans(file, size)

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        return read_rows(file, layout, advance)


class Tsv:
    """Any tab-separated file whose first line names columns for an id and a text."""

    name = "tsv"

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        if sample.container != "text" or b"\t" not in sample.lines[0]:
            return None
        cells = [unquoted(cell).strip() for cell in sample.lines[0].decode("utf-8", "replace").split("\t")]
        used = names.fitted(cells).found(cells)
        if "id" not in used or "text" not in used or any(name not in cells for _, name in names.chosen):
            return None
        whole = used["text"].lower() not in _DOCUMENT_NAMES
        columns = {role: cells.index(name) for role, name in used.items()}
        return Layout(used=used, whole=whole, columns=columns, width=len(cells), header=True)

    def split(self, file: SourceFile, layout: Layout, size: int) -> Sequence[Span]:
        return line_spans(file, size)

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        return read_rows(file, layout, advance)


def cells_of(line: bytes) -> list[str]:
    """The cells of a line in lower case, without quotes, to tell a header by."""
    return [unquoted(cell).strip().lower() for cell in line.decode("utf-8", "replace").split("\t")]


def is_header(cells: Sequence[str]) -> bool:
    """Whether cells are names of columns: all look like names, and one is known as such."""
    known = {*FieldNames().ids, *FieldNames().titles, *FieldNames().texts} | _OTHER_NAMES
    return all(_NAME.fullmatch(cell) for cell in cells) and bool(known & set(cells))


def _is_passage(line: bytes) -> bool:
    cells = line.split(b"\t")
    return len(cells) == 3 and bool(cells[0].strip()) and bool(cells[1].strip())


def read_rows(file: SourceFile, layout: Layout, advance: Advance) -> Iterator[Record]:
    """Articles of a table with quoted fields, in file order."""
    lines = read_lines(file, advance, begins_record=lambda line: is_row(line, layout.width))
    header = layout.header and (file.span is None or not file.span.start)
    for count, row in enumerate(QuotedRows(lines, width=layout.width)):
        if header and count == 0:
            continue
        place = f"{file.name}:{row.number}"
        try:
            yield _article(row, layout, place)
        except RecordError as error:
            article_id = row_id(row.line, layout.columns["id"])
            yield Rejection(place, error.reason, error.detail, snippet(row.line), article_id)


def _article(row: Row, layout: Layout, place: str) -> Article:
    columns = layout.columns
    decode(row.line)
    if row.fields is None or len(row.fields) != layout.width:
        named = ", ".join(sorted(columns, key=lambda role: columns[role]))
        found = len(row.line.split(b"\t"))
        raise RecordError("wrong_columns", f"expected {layout.width} tab-separated columns ({named}), found {found}")
    article_id = clean_id(row.fields[columns["id"]])
    title = clean_title(row.fields[columns["title"]]) if "title" in columns else ""
    text = row.fields[columns["text"]]
    return Article(
        article_id,
        title,
        need_text([text]) if layout.whole else text_paragraphs(text),
        place,
        whole=layout.whole,
    )


register_format(Dpr(), order=70)
register_format(Tsv(), order=80)
