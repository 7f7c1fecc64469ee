"""WikiExtractor's text files: `<doc id="12" url="…" title="…">`, the title, a blank line, the text, `</doc>`.

Characters that WikiExtractor escapes in texts (`&lt;`, `&gt;`, `&amp;`) are themselves again. The line that repeats the
title is left to the title, so paragraphs count from the text's first line.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Final

from .... import InputError
from ..article import Article, Record, clean_id, clean_title, decode, need_text
from ..fields import FieldNames
from ..lines import MAX_LINE_BYTES, read_lines
from ..record_layout import Layout
from ..rejects import RecordError, Rejection, snippet
from ..sample import Sample
from ..source_file import SourceFile
from .base import Advance, Skip
from .format_registry import register_format

_OPENING: Final = re.compile(rb'\s*<doc id="([^"]*)"(?: [a-z]+="[^"]*")* title="(.*)">\s*')
_CLOSING: Final = b"</doc>"
_USED: Final = {"id": "<doc id>", "title": "<doc title>", "text": "the text of <doc>"}


class WikiExtractor:
    """Files that WikiExtractor wrote without `--json`."""

    name = "wikiextractor"

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        if sample.container != "text" or names.chosen:
            return None
        return Layout(used=_USED) if forced or _OPENING.fullmatch(sample.lines[0]) else None

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        opening, begun, held = b"", 0, 0
        body: list[bytes] = []
        for number, line in read_lines(file, advance):
            here = f"{file.name}:{number}"
            if _OPENING.fullmatch(line):
                if opening:
                    yield _unended(opening, f"{file.name}:{begun}")
                opening, begun, held, body = line, number, 0, []
            elif not opening:
                yield Rejection(here, "broken_markup", "a line outside <doc> … </doc>", snippet(line))
            elif line.strip() == _CLOSING:
                yield _article(opening, body, f"{file.name}:{begun}")
                opening = b""
            else:
                body.append(line)
                held += len(line)
                if held > MAX_LINE_BYTES:
                    raise InputError(
                        f"{file.name}:{begun}: a <doc> of more than {MAX_LINE_BYTES:,} bytes without </doc>"
                    )
        if opening:
            yield _unended(opening, f"{file.name}:{begun}")


def _article(opening: bytes, body: list[bytes], place: str) -> Record:
    try:
        article_id, title = _heading(opening)
        paragraphs = [html_text(decode(line)) for line in body]
        if paragraphs and clean_title(paragraphs[0]) in (clean_title(title), clean_title(html.unescape(title))):
            title = paragraphs.pop(0)
        else:
            title = html.unescape(title)
        return Article(article_id, clean_title(title), need_text(paragraphs), place)
    except RecordError as error:
        return Rejection(place, error.reason, error.detail, snippet(opening), _known_id(opening))


def _unended(opening: bytes, place: str) -> Rejection:
    return Rejection(place, "broken_markup", "a <doc> without </doc>", snippet(opening), _known_id(opening))


def _heading(opening: bytes) -> tuple[str, str]:
    match = _OPENING.fullmatch(opening)
    assert match is not None
    return clean_id(decode(match.group(1))), decode(match.group(2))


def _known_id(opening: bytes) -> str:
    try:
        return _heading(opening)[0]
    except RecordError:
        return ""


def html_text(text: str) -> str:
    """The text that WikiExtractor escaped."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


register_format(WikiExtractor(), order=60)
