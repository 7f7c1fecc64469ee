"""KILT's knowledge source: one Wikipedia page a record, `text` a list whose first entry is the title.

Paragraph ids are positions in that list, as KILT's provenance counts them. Anchors, categories and history are not
read. Hugging Face's `kilt_wikipedia` has the same pages in Parquet or Arrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..article import Record
from ..fields import FieldNames
from ..record_layout import Layout
from ..records import record_layout
from ..sample import Sample
from ..source_file import SourceFile, Span
from .base import Advance, Skip
from .format_registry import register_format
from .lines_or_table import read_any, split_any


class Kilt:
    """KILT pages, as JSON lines, Parquet or Arrow."""

    name = "kilt"

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        present = [sample.columns] if sample.container != "text" else list(sample.records)
        for keys in present:
            layout = record_layout(sample.records, keys, names)
            if layout is not None:
                if layout.kilt:
                    return layout
                break
        if not forced or sample.container != "text":
            return None
        return Layout(names=names.for_kilt(), kilt=True)

    def split(self, file: SourceFile, layout: Layout, size: int) -> Sequence[Span]:
        return split_any(file, size)

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        return read_any(file, layout, advance)


register_format(Kilt(), order=10)
