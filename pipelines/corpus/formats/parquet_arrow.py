"""Tables: Parquet, and Arrow as Hugging Face's `save_to_disk` writes it; a row is a record with named fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..article import Record, known_id
from ..fields import FieldNames
from ..record_layout import Layout
from ..records import record_article, record_layout
from ..rejects import RecordError, Rejection, snippet
from ..sample import Sample
from ..source_file import SourceFile, Span, reading
from ..table_files import read_table, row_group_spans
from .base import Advance, Skip
from .format_registry import register_format


class _Table:
    name: str

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        if sample.container != self.name:
            return None
        layout = record_layout(sample.records, sample.columns, names)
        return None if layout is not None and layout.kilt and not forced else layout

    def split(self, file: SourceFile, layout: Layout, size: int) -> Sequence[Span]:
        return split_table(file, self.name, size)

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        return read_rows(file, layout, self.name, advance)


class Parquet(_Table):
    """Parquet files."""

    name = "parquet"


class Arrow(_Table):
    """Arrow files and streams (Feather as well)."""

    name = "arrow"


def read_rows(file: SourceFile, layout: Layout, container: str, advance: Advance) -> Iterator[Record]:
    """Articles of a table, in row order."""
    first = 1 if file.span is None else file.span.rows_before + 1
    with reading(file) as stream:
        rows = read_table(stream, file.name, container, list(layout.used.values()), advance, file.span)
        for number, row in enumerate(rows, first):
            yield _article(row, layout, f"{file.name}:{number}")


def split_table(file: SourceFile, container: str, size: int) -> list[Span]:
    """Spans of row groups of a Parquet file that have about `size` bytes; none for an Arrow file."""
    if container != "parquet":
        return []
    with reading(file) as stream:
        return row_group_spans(stream, file.name, size)


def _article(row: Mapping[str, Any] | RecordError, layout: Layout, place: str) -> Record:
    try:
        if isinstance(row, RecordError):
            raise row
        return record_article(row, layout, place)
    except RecordError as error:
        record = {} if isinstance(row, RecordError) else row
        shown = str(dict(record)) if record else ""
        return Rejection(place, error.reason, error.detail, snippet(shown), known_id(record, layout.names.ids))


register_format(Parquet(), order=40)
register_format(Arrow(), order=50)
