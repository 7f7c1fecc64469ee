"""MS MARCO's tab-separated files, which have no header: `collection.tsv` (pid, passage) and `msmarco-docs.tsv`
(docid, url, title, body)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ..article import Article, Record, clean_id, clean_title, decode, need_text, read_records, row_id, text_paragraphs
from ..fields import FieldNames
from ..lines import line_spans, read_lines
from ..record_layout import Layout
from ..rejects import RecordError
from ..sample import Sample
from ..source_file import SourceFile, Span
from .base import Advance, Skip
from .format_registry import register_format
from .tsv import cells_of, is_header

_DOCUMENT: Final = {"id": "column 1", "title": "column 3", "text": "column 4"}


class Passages:
    """Passages cut by others, kept whole; they have no title."""

    name = "msmarco"

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        if sample.container != "text" or names.chosen:
            return None
        named = is_header(cells_of(sample.lines[0]))
        if forced or (not named and any(map(_is_passage, sample.lines))):
            return Layout(used={"id": "column 1", "text": "column 2"}, whole=True)
        return None

    def split(self, file: SourceFile, layout: Layout, size: int) -> Sequence[Span]:
        return line_spans(file, size)

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        return read_records(read_lines(file, advance), file.name, _passage, row_id)


class Documents:
    """Documents with a title, cut into passages."""

    name = "msmarco-docs"

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        if sample.container != "text" or names.chosen:
            return None
        if forced or any(len(row := line.split(b"\t")) == 4 and b"://" in row[1] for line in sample.lines):
            return Layout(used=_DOCUMENT)
        return None

    def split(self, file: SourceFile, layout: Layout, size: int) -> Sequence[Span]:
        return line_spans(file, size)

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        return read_records(read_lines(file, advance), file.name, _document, row_id)


def _is_passage(line: bytes) -> bool:
    cells = line.split(b"\t")
    return len(cells) == 2 and cells[0].strip().isdigit()


def _passage(line: bytes, place: str) -> Article:
    article_id, tab, text = decode(line).partition("\t")
    if not tab:
        raise RecordError("wrong_columns", "expected 2 tab-separated columns (pid, text), found 1")
    return Article(clean_id(article_id, "pid"), "", need_text([text]), place, whole=True)


def _document(line: bytes, place: str) -> Article:
    row = decode(line).split("\t", 3)
    if len(row) != 4:
        raise RecordError(
            "wrong_columns", f"expected 4 tab-separated columns (docid, url, title, body), found {len(row)}"
        )
    return Article(clean_id(row[0], "docid"), clean_title(row[2]), text_paragraphs(row[3]), place)


register_format(Documents(), order=90)
register_format(Passages(), order=100)
