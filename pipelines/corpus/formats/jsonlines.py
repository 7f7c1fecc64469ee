"""JSON lines: a record with named fields on each line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..article import Record, json_id, parse_json, read_records
from ..fields import FieldNames
from ..lines import line_spans, read_lines
from ..record_layout import Layout
from ..records import record_article, record_layout
from ..sample import Sample
from ..source_file import SourceFile, Span
from .base import Advance, Skip
from .format_registry import register_format


class JsonLines:
    """Records with an id, a text and perhaps a title, under any of the names that `fields` knows."""

    name = "json"

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        if sample.container != "text":
            return None
        for record in sample.records:
            layout = record_layout(sample.records, record, names)
            if layout is not None:
                return None if layout.kilt and not forced else layout
        return Layout(names=names) if forced else None

    def split(self, file: SourceFile, layout: Layout, size: int) -> Sequence[Span]:
        return line_spans(file, size)

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        return read_json(file, layout, advance)


def read_json(file: SourceFile, layout: Layout, advance: Advance) -> Iterator[Record]:
    """Articles of JSON lines, in file order."""
    return read_records(
        read_lines(file, advance),
        file.name,
        lambda line, place: record_article(parse_json(line), layout, place),
        lambda line: json_id(line, layout.names.ids),
    )


register_format(JsonLines(), order=30)
