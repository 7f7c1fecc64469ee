"""Finds out how a query file is to be read, from its beginning and from what the caller says of it.

Text is the last resort: a file that looks like JSON or like a table is read as such, and where its question cannot be
told it is refused with what was found and how to say it. Nobody notices that a model was asked `1048000<TAB>who…`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, BinaryIO, Final

from ... import InputError, UsageError
from .kilt import RecordError, parse_json_object
from .query import Mark
from .query_fields import Fields, choose_fields, how_to_say, shown
from .query_json import parse_string, raw_elements, raw_lines
from .query_layout import Layout
from .query_table_detect import refuse_tables, table_layout

_SNIFFED_BYTES: Final = 1 << 20
_SNIFFED_RECORDS: Final = 100

_BINARY: Final = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF file",
    b"<?xml": "XML",
    b"<!doctype": "HTML",
    b"<html": "HTML",
}


def detect(handle: BinaryIO, name: str, wanted: str | None, fields: Mapping[str, str] | None = None) -> Layout:
    """The layout of an open file. `wanted` is a format (None: find out), `fields` what `--field` names.

    Raises:
        InputError: the file is empty, is no text, does not look like the format asked for, or is a table or JSON whose
            question cannot be told.
        UsageError: `fields` are given for plain text.
    """
    named = dict(fields or {})
    handle.seek(0)
    head = handle.read(_SNIFFED_BYTES)
    whole = len(head) < _SNIFFED_BYTES
    handle.seek(0)
    _check_text(head, name)
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if not text:
        raise InputError(f"{name} holds no query")
    if wanted == "text":
        return _text(name, named)
    array = _begins_list(text, whole, name)
    if wanted in ("kilt", "fid", "json") or (wanted is None and (array or text.startswith(b"{"))):
        return _json_layout(handle, name, wanted, array, named, text if whole else b"")
    lines = _lines(text, whole)
    found = table_layout(lines, name, named, wanted)
    if found is not None:
        return found
    if wanted is not None:
        what = "csv" if wanted == "csv" else "tsv"
        raise InputError(
            f"{name}:1: no column named question in the header ({lines[0][:80]!r}); it is no {what} file that can be "
            f"read: {how_to_say()}"
        )
    refuse_tables(lines, name)
    return _text(name, named)


def _check_text(head: bytes, name: str) -> None:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{name} is UTF-16; save it as UTF-8")
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:32].lower()
    for magic, what in _BINARY.items():
        if start.startswith(magic.lower()):
            raise InputError(f"{name} is {what}; save the questions as JSON lines, CSV or plain text (UTF-8)")
    if b"\0" in head[:4096]:
        raise InputError(f"{name} is no text: it holds NUL bytes; save the questions as UTF-8 text")


def _text(name: str, named: Mapping[str, str]) -> Layout:
    if named:
        raise UsageError(f"--field names keys or columns, but {name} is plain text: a line is a question")
    return Layout(format="text", fields=Fields(question="the line", id="line number"))


def _lines(text: bytes, whole: bool) -> list[str]:
    lines = text.split(b"\n")
    if not whole and len(lines) > 1:
        lines.pop()  # cut by the end of what was looked at
    kept = (line.decode("utf-8", "replace").rstrip("\r") for line in lines if line.strip())
    return list(islice(kept, _SNIFFED_RECORDS))


def _begins_list(text: bytes, whole: bool, name: str) -> bool:
    """Whether the file is one JSON list of objects or strings, and not plain text that begins with a bracket."""
    if not text.startswith(b"["):
        return False
    rest = text[1:].lstrip()
    if rest[:1] in (b"{", b"]", b""):
        return True
    decoded = text.decode("utf-8", "replace")
    if rest[:1] == b'"':
        start = len(decoded) - len(decoded[1:].lstrip())
        try:
            end = json.JSONDecoder(strict=False).raw_decode(decoded, start)[1]
        except ValueError:
            return False
        after = decoded[end:].lstrip()
        # `["Imagine"] was sung by` is text; what follows another list's end is told when it is met.
        return after[:1] in (",", "") or (after[0] == "]" and after[1:].lstrip()[:1] in ("", "["))
    if whole:
        try:
            json.loads(decoded)
        except (ValueError, RecursionError):
            return False
        raise InputError(f"{name} is a JSON list of neither objects nor strings; {how_to_say()}")
    return False


def _json_layout(
    handle: BinaryIO, name: str, wanted: str | None, array: bool, named: Mapping[str, str], text: bytes
) -> Layout:
    """`text` is the whole file where it is small."""
    records, strings = _sampled(handle, array)
    if not records and not strings and not array and _is_object(text):
        raise InputError(
            f"{name} is one JSON object over many lines; write an object a line, or a list of objects: [{{…}}, {{…}}]"
        )
    keys = list(dict.fromkeys(key for record in records for key in record))
    if strings and not records and wanted != "kilt":
        if named:
            raise UsageError(f"--field names keys or columns, but {name} is a list of strings: each is a question")
        return Layout(format="json", fields=Fields(question="the string"), array=array)
    outputs = any(isinstance(record.get("output"), list) for record in records)
    kilt = wanted == "kilt" or (outputs and wanted in (None, "json"))
    kilt = kilt or (wanted is None and ({"id", "input"} <= set(keys) or not records))
    if kilt:
        return Layout(format="kilt", fields=_kilt_fields(keys, named, name), array=array)
    # A key that is there but empty everywhere says nothing of the file.
    used = [key for key in keys if any(record.get(key) not in (None, "") for record in records)]
    fields = choose_fields(used, named, name, "key")
    if fields.question is None:
        if not records:  # nothing could be read: the records' own problems say it better
            fields = Fields(question="question", id="id", answers=("answers", "target"))
        else:
            raise InputError(f"{name}: JSON with {shown(keys)}: none of them is known as the question; {how_to_say()}")
    brings = next((key for key in ("ctxs", "passage_ids") if key in used), None)
    other = (("passages", brings),) if brings else ()
    return Layout(
        format=wanted or ("fid" if "ctxs" in used else "json"),
        fields=Fields(question=fields.question, id=fields.id, answers=fields.answers, other=other),
        array=array,
    )


def _kilt_fields(keys: Sequence[str], named: Mapping[str, str], name: str) -> Fields:
    """KILT's own names; another question, such as a key `question`, counts where `input` is absent."""
    found = choose_fields([key for key in keys if key != "output"], named, name, "key")
    question = "input" if "input" in keys or found.question is None else found.question
    return Fields(
        question=named.get("question", question),
        id=named.get("id") or ("id" if "id" in keys else found.id or "id"),
        answers=found.answers,
        other=(("gold", "output"),) if "output" in keys else (),
    )


def _sampled(handle: BinaryIO, array: bool) -> tuple[list[dict[str, Any]], int]:
    """The first objects of the file, and how many strings were met on the way; what is broken is passed over."""
    records: list[dict[str, Any]] = []
    strings = 0
    handle.seek(0)
    for raw in islice((raw_elements if array else raw_lines)(handle, Mark(0, 1, 0)), _SNIFFED_RECORDS):
        if raw.mark.offset > _SNIFFED_BYTES:
            break
        try:
            if array and parse_string(raw.content) is not None:
                strings += 1
            else:
                records.append(parse_json_object(raw.content))
        except RecordError:
            continue
    handle.seek(0)
    return records, strings


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict) and b"\n" in text.strip()
    except (ValueError, RecursionError):
        return False
