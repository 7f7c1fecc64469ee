"""TREC CAR's paragraphs and pages (Dietz et al., TREC CAR Y1 and later), in CBOR.

A paragraph is an article that is kept whole, its id that of the paragraph. A page is an article: its paragraphs are the
paragraphs, list items and captions of its skeleton in order, and each section's headings, in KILT's mark-up
(`Section::::History.:Origins.`), where the section begins; infoboxes are left out. Of links the anchor text is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from .... import InputError
from ..article import BULLET, HEADING, Article, Record, clean_id, clean_title, kind, need_text
from ..car_file import OUTLINES, PAGES, PARAGRAPHS, car_items
from ..fields import FieldNames
from ..record_layout import Layout
from ..rejects import RecordError, Rejection, snippet
from ..sample import Sample
from ..source_file import SourceFile
from .base import Advance, Skip
from .format_registry import register_format

_SECTION, _PARAGRAPH, _IMAGE, _LIST, _INFOBOX = range(5)
_MOST_DEPTH: Final = 50
_USED: Final = {"id": "the paragraph's or page's id", "title": "the page's name", "text": "the bodies of paragraphs"}


class Car:
    """Paragraphs and pages of TREC CAR, with or without a header."""

    name = "car"

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        if sample.container != "car" or names.chosen:
            return None
        return Layout(used=_USED)

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        for declared, number, item in car_items(file, advance):
            if declared == OUTLINES:
                raise InputError(
                    f"{file.name}: a file of TREC CAR outlines, which are questions, not text; name the file of "
                    "paragraphs or pages"
                )
            place = f"{file.name}:{number}"
            try:
                which = _kind_of(item) if declared is None else declared
                yield _paragraph(item, place) if which == PARAGRAPHS else _page(item, place)
            except RecordError as error:
                yield Rejection(place, error.reason, error.detail, snippet(repr(item)[:1000]), _known_id(item))


def _kind_of(item: Any) -> int:
    """Whether an item of a file without a header is a paragraph `[0, id, bodies]` or a page `[0, name, id, …]`."""
    return PARAGRAPHS if isinstance(item, list) and len(item) == 3 else PAGES


def _paragraph(item: Any, place: str) -> Article:
    _check(item, 3, "a paragraph")
    return Article(clean_id(_text(item[1], "id")), "", need_text([_paragraph_text(item)]), place, whole=True)


def _page(item: Any, place: str) -> Article:
    _check(item, 4, "a page")
    paragraphs: list[str] = []
    _flatten(_items(item[3], "skeleton"), (), paragraphs, 0)
    title = clean_title(_text(item[1], "name"))
    return Article(clean_id(_text(item[2], "id")), title, need_text(paragraphs), place)


def _flatten(skeleton: Sequence[Any], headings: tuple[str, ...], paragraphs: list[str], depth: int) -> None:
    """Adds what `skeleton` holds, in order; `headings` are those of the sections around it."""
    if depth > _MOST_DEPTH:
        raise RecordError("wrong_type", f"sections more than {_MOST_DEPTH} deep")
    for part in skeleton:
        _check(part, 2, "a part of a page", first=None)
        if part[0] == _SECTION:
            _check(part, 4, "a section")
            inner = (*headings, clean_title(_text(part[1], "heading")))
            paragraphs.append(f"{HEADING}{'.:'.join(inner)}.")
            _flatten(_items(part[3], "a section's content"), inner, paragraphs, depth + 1)
        elif part[0] == _PARAGRAPH:
            paragraphs.append(_paragraph_text(part[1]))
        elif part[0] == _IMAGE:
            _check(part, 3, "an image", first=_IMAGE)
            _flatten(_items(part[2], "a caption"), headings, paragraphs, depth + 1)
        elif part[0] == _LIST:
            _check(part, 3, "an item of a list", first=_LIST)
            paragraphs.append(BULLET + _paragraph_text(part[2]))
        elif part[0] != _INFOBOX:
            raise RecordError("wrong_type", f"a part of a page of the unknown kind {part[0]!r}")


def _paragraph_text(paragraph: Any) -> str:
    """The text of `[0, id, bodies]`, on one line; of links the anchor. Raises RecordError for anything else."""
    _check(paragraph, 3, "a paragraph")
    texts: list[str] = []
    for body in _items(paragraph[2], "bodies"):
        _check(body, 2, "a body", first=None)
        if body[0] == 0:
            texts.append(_text(body[1], "text"))
        elif body[0] == 1:
            _check(body[1], 5, "a link", first=None)
            texts.append(_text(body[1][4], "anchor"))
        else:
            raise RecordError("wrong_type", f"a body of the unknown kind {body[0]!r}")
    return "".join(texts).replace("\r", " ").replace("\n", " ")


def page_sections(page: Any) -> tuple[str, str, list[tuple[tuple[str, ...], tuple[str, ...]]]]:
    """(name, id, [(headings, ids of headings)]) of a page or an outline: each section, with the sections around it.

    Raises RecordError for anything else.
    """
    _check(page, 4, "a page")
    found: list[tuple[tuple[str, ...], tuple[str, ...]]] = []

    def gather(skeleton: Sequence[Any], headings: tuple[str, ...], ids: tuple[str, ...]) -> None:
        if len(headings) > _MOST_DEPTH:
            raise RecordError("wrong_type", f"sections more than {_MOST_DEPTH} deep")
        for part in skeleton:
            _check(part, 2, "a part of a page", first=None)
            if part[0] == _SECTION:
                _check(part, 4, "a section")
                inner = (*headings, clean_title(_text(part[1], "heading"))), (*ids, _text(part[2], "a heading's id"))
                found.append(inner)
                gather(_items(part[3], "a section's content"), *inner)

    gather(_items(page[3], "skeleton"), (), ())
    return clean_title(_text(page[1], "name")), clean_id(_text(page[2], "id")), found


def _known_id(item: Any) -> str:
    for at in (1, 2) if isinstance(item, list) and len(item) == 3 else (2,):
        try:
            return clean_id(_text(item[at], "id"))
        except (RecordError, IndexError, TypeError, KeyError):
            continue
    return ""


def _check(value: Any, least: int, what: str, first: int | None = 0) -> None:
    if not isinstance(value, list):
        raise RecordError("wrong_type", f"{what} is {kind(value)}, expected a list")
    if len(value) < least:
        raise RecordError("missing_field", f"{what} has {len(value)} fields, expected {least}")
    if first is not None and value[0] != first:
        raise RecordError("wrong_type", f"{what} begins with {str(value[0])[:40]!r}, expected {first}")


def _items(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise RecordError("wrong_type", f"{what} is {kind(value)}, expected a list")
    return value


def _text(value: Any, what: str) -> str:
    """A text; ids are bytes in most files."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise RecordError("not_utf8", f"{what} is not UTF-8 ({error})") from error
    if not isinstance(value, str):
        raise RecordError("wrong_type", f"{what} is {kind(value)}, expected a text")
    return value


register_format(Car(), order=5)
