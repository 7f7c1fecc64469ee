"""KILT's knowledge source: one Wikipedia page a line, `text` a list whose first entry is the title.

Paragraph ids are positions in that list, as KILT's provenance counts them. `text[0]` is left to the title; should it
say something else, it is kept as paragraph 0, so that nothing is lost. Anchors, categories and history are not read.
"""

from __future__ import annotations

from collections.abc import Iterator

from .article import (
    Article,
    Lines,
    Record,
    clean_title,
    id_field,
    json_id,
    need_text,
    parse_json,
    read_records,
    title_field,
)
from .rejects import RecordError


def read_kilt(lines: Lines, name: str) -> Iterator[Record]:
    """Articles of a KILT knowledge source, in file order; `lines` are numbered raw lines of the file `name`."""
    return read_records(lines, name, _parse, lambda line: json_id(line, ("wikipedia_id", "_id")))


def _parse(line: bytes, place: str) -> Article:
    record = parse_json(line)
    article_id = id_field(record, "wikipedia_id", "_id")
    text = record.get("text")
    if text is None:
        raise RecordError("missing_field", "field 'text' is missing or null")
    if not isinstance(text, list) or not all(isinstance(p, str) for p in text):
        raise RecordError("wrong_type", "field 'text' is not a list of strings")
    if not text:
        raise RecordError("empty_text", "the article has no text")
    heading = clean_title(text[0])
    title = title_field(record, "wikipedia_title") or heading
    if heading in ("", title):
        return Article(article_id, title, need_text(text[1:]), place)
    return Article(article_id, title, need_text(text), place, first_paragraph=0)
