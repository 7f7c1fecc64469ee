"""Query files taken apart, one record at a time, whatever their format.

Each format is an iterator from a place in a file to raw items, every one either a `Query` or what is wrong with it,
so that `queries` can check a whole file without holding it and later start reading in its middle. Nothing here keeps
state between records.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from .kilt import RecordError
from .query import Item, Mark, Query, parsed
from .query_json import Raw, json_items, make_query, raw_lines
from .query_layout import Layout
from .query_tables import csv_items, tsv_items


def items(handle: BinaryIO, name: str, layout: Layout, start: Mark | None = None) -> Iterator[Item]:
    """Records of a file from `start` (a mark met earlier; None: the beginning) to its end."""
    start = start or Mark(0, 1, 0)
    handle.seek(start.offset)
    read = {"csv": csv_items, "tsv": tsv_items, "text": _text_items}.get(layout.format, json_items)
    return read(handle, name, layout, start)


def _text_items(handle: BinaryIO, name: str, layout: Layout, start: Mark) -> Iterator[Item]:
    for raw in raw_lines(handle, start):
        if raw.problem:
            yield Item(raw.mark, f"{name}:{raw.mark.line}", None, raw.problem, fatal=True)
            return
        yield parsed(raw.mark, name, lambda raw=raw: _text_query(raw, layout))  # type: ignore[misc]


def _text_query(raw: Raw, layout: Layout) -> Query:
    try:
        text = raw.content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"not valid UTF-8 at byte {error.start} of the line") from None
    return make_query(layout, id=str(raw.mark.line), question=text)
