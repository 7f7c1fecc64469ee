"""Wikimedia's CirrusSearch dumps: a line that says which document, then the document, for every page.

Only articles (namespace 0) are read; talk, category and file pages are counted as left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ..article import Record, json_id, parse_json
from ..fields import FieldNames
from ..lines import read_lines
from ..record_layout import Layout
from ..records import record_article
from ..rejects import RecordError, Rejection, snippet
from ..sample import Sample
from ..source_file import SourceFile
from .base import Advance, Skip
from .format_registry import register_format

_FIELDS: Final = FieldNames(ids=("page_id", "_id"), titles=("title",), texts=("text",))
OTHER_PAGES: Final = "pages outside the article namespace"


class Cirrus:
    """A CirrusSearch dump, of the kind `*-cirrussearch-content.json.gz`."""

    name = "cirrus"

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        if sample.container != "text" or names.chosen:
            return None
        if forced or any(_indexed(record) is not None for record in sample.records[:1]):
            return Layout(names=_FIELDS, used={"id": "page_id", "title": "title", "text": "text"})
        return None

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        announced = ""
        for number, line in read_lines(file, advance):
            place = f"{file.name}:{number}"
            try:
                record = parse_json(line)
                indexed = _indexed(record)
                if indexed is not None:
                    announced = indexed
                    continue
                record.setdefault("_id", announced or None)
                if record.get("namespace", 0) != 0:
                    skip(OTHER_PAGES)
                else:
                    yield record_article(record, layout, place)
            except RecordError as error:
                article_id = announced or json_id(line, layout.names.ids)
                yield Rejection(place, error.reason, error.detail, snippet(line), article_id)
            announced = ""


def _indexed(record: dict[str, Any] | Any) -> str | None:
    """The page that an `{"index": …}` line announces; None for any other record."""
    action = record.get("index")
    if len(record) != 1 or not isinstance(action, dict):
        return None
    return str(action.get("_id") or "")


register_format(Cirrus(), order=20)
