"""The one shape every source is read into, and the checks all formats share.

A reader turns bytes into `Article`s; what follows (cutting, hashing, encoding) never sees a format again. Field
checks raise `RecordError` with the reason a rejection is counted under.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from .fields import ID_NAMES
from .rejects import RecordError, Rejection, snippet
from .salvage import salvaged_id

MAX_ID_BYTES: Final = 1_024
HEADING: Final = "Section::::"
BULLET: Final = "BULLET::::"
"""KILT's mark-up, at the beginning of a paragraph."""


@dataclass(frozen=True, slots=True)
class Article:
    """One article as its source gives it.

    `paragraphs[i]` is the original text of paragraph id `first_paragraph + i`, mark-up included: KILT counts its title
    as paragraph 0, so bodies start at 1 everywhere. `place` is "file:line". `whole` marks a source that was cut into
    passages by others (DPR, MS MARCO): the article is one passage unless it overflows the encoder's window.
    """

    article_id: str
    title: str
    paragraphs: list[str] = field(repr=False)
    place: str
    first_paragraph: int = 1
    whole: bool = False


Record = Article | Rejection
Lines = Iterable[tuple[int, bytes]]


def read_records(
    lines: Lines, name: str, parse: Callable[[bytes, str], Article], identify: Callable[[bytes], str]
) -> Iterator[Record]:
    """Parse each numbered line of the file `name`; a line that cannot be parsed comes out as a `Rejection`.

    `identify` gives the article id of such a line, "" where it cannot be told.
    """
    for number, line in lines:
        place = f"{name}:{number}"
        try:
            yield parse(line, place)
        except RecordError as error:
            yield Rejection(place, error.reason, error.detail, snippet(line), identify(line))


def json_id(line: bytes, names: Sequence[str] = ID_NAMES) -> str:
    """The id in a line of JSON that was refused, "" where it cannot be told."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return salvaged_id(line, names)
    return known_id(record, names) or salvaged_id(line, names) if isinstance(record, dict) else ""


def known_id(record: Mapping[str, Any], names: Sequence[str] = ID_NAMES) -> str:
    """The id of a record that was refused, "" where it has none that can be used."""
    try:
        return id_field(record, *names)
    except RecordError:
        return ""


def parse_json(line: bytes) -> dict[str, Any]:
    """One JSON object from one line, or RecordError: `broken_json`, `not_utf8`, `lone_surrogate`, `wrong_type`."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        decode(line)
        reason = "lone_surrogate" if _has_lone_surrogate(line) else "broken_json"
        raise RecordError(reason, f"not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise RecordError("wrong_type", f"expected a JSON object, found {kind(record)}")
    return record


def _has_lone_surrogate(line: bytes) -> bool:
    """Whether the line is JSON, but for an escape of half a character, which Python's parser lets through."""
    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    except (ValueError, RecursionError):
        return False
    return False


def decode(line: bytes) -> str:
    """UTF-8 text of one line, or RecordError `not_utf8`."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError("not_utf8", f"not valid UTF-8 at byte {error.start}") from error


def title_field(record: Mapping[str, Any], *names: str) -> str:
    """A title, folded to one line: the first of the fields `names` that is there, a string or a number.

    Absent, null, blank and not-a-number titles are the empty string.
    """
    for name in names:
        value = record.get(name)
        if value is None:
            continue
        if isinstance(value, str):
            return clean_title(value)
        if isinstance(value, float):
            if math.isnan(value):
                return ""
            value = int(value) if value.is_integer() else value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise RecordError("wrong_type", f"field '{name}' is {kind(value)}, expected a string or a number")
    return ""


def id_field(record: Mapping[str, Any], *names: str) -> str:
    """The article's id: the first of the fields `names` that is there, a non-blank string or an integer."""
    for name in names:
        value = record.get(name)
        if value is None:
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise RecordError("wrong_type", f"field '{name}' is {kind(value)}, expected a string or an integer")
        return clean_id(value, name)
    raise RecordError("missing_field", f"field '{names[0]}' is missing or null")


def clean_id(value: str, name: str = "id") -> str:
    """An id without blanks around it; RecordError for an empty one, a control character, or over 1,024 bytes of UTF-8.

    Every passage's catalog row holds the id, and rows are bounded: a longer id is refused here, before it is encoded.
    """
    identifier = value.strip()
    if not identifier:
        raise RecordError("missing_field", f"field '{name}' is empty")
    if not identifier.isprintable():
        raise RecordError("wrong_type", f"field '{name}' holds a control character")
    if len(identifier) > MAX_ID_BYTES or len(identifier.encode()) > MAX_ID_BYTES:
        raise RecordError("id_too_long", f"field '{name}' has more than {MAX_ID_BYTES:,} bytes")
    return identifier


def clean_title(title: str) -> str:
    """A title with runs of white space (and NUL) folded to single spaces."""
    return " ".join(title.replace("\x00", " ").split())


def need_text(paragraphs: list[str]) -> list[str]:
    """`paragraphs` itself, or RecordError `empty_text` where all of them are blank, or nothing but mark-up."""
    if all(blank(p.removeprefix(HEADING if p.startswith(HEADING) else BULLET)) for p in paragraphs):
        raise RecordError("empty_text", "the article has no text")
    return paragraphs


def blank(text: str) -> bool:
    """Whether a paragraph holds nothing but white space and NUL characters."""
    return not text or text.isspace() or not text.replace("\x00", " ").strip()


def text_paragraphs(text: str) -> list[str]:
    """Paragraphs of a running text: its lines, blank ones left out, so that ids count paragraphs, not line breaks."""
    return need_text([line for line in text.split("\n") if not blank(line)])


def kind(value: object) -> str:
    """What a value is in JSON's words, for messages."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


def row_id(line: bytes, column: int = 0) -> str:
    """The id in a tab-separated line that was refused, "" where it cannot be told."""
    cells = line.split(b"\t")
    try:
        return clean_id(decode(cells[column]).strip('"')) if column < len(cells) else ""
    except RecordError:
        return ""
