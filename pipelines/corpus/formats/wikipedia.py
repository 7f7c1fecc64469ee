"""`--format wikipedia`: records with named fields, whether they are JSON lines, Parquet or Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..article import Record
from ..fields import FieldNames
from ..record_layout import Layout
from ..sample import Sample
from ..source_file import SourceFile, Span
from .base import Advance, Skip
from .format_registry import register_format
from .jsonlines import JsonLines
from .lines_or_table import read_any, split_any
from .parquet_arrow import Arrow, Parquet


class Wikipedia:
    """A name that people may give; the content never tells it from the three."""

    name = "wikipedia"

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        if not forced:
            return None
        layouts = (format.sniff(sample, names, forced=True) for format in (JsonLines(), Parquet(), Arrow()))
        return next((layout for layout in layouts if layout is not None), None)

    def split(self, file: SourceFile, layout: Layout, size: int) -> Sequence[Span]:
        return split_any(file, size)

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        return read_any(file, layout, advance)


register_format(Wikipedia(), order=110)
