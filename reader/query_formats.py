"""Query files taken apart: KILT JSON lines, FiD JSON, CSV and plain text, one record at a time.

Each format is an iterator from a place in a file to raw items, every one either a `Query` or what is wrong with it,
so that `queries` can check a whole file without holding it and later start reading in its middle. Nothing here keeps
state between records.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from .. import InputError
from .kilt import MAX_LINE_BYTES, Output, Provenance, RecordError, parse_id, parse_json_object, parse_outputs

FORMATS = ("kilt", "fid", "csv", "text")

MAX_QUESTION_WORDS = 1_024
"""Longest question accepted, in words between spaces. Real inputs, dialogues and ELI5 posts included, stay below it."""

MAX_QUESTION_CHARACTERS = 16_384
"""The same for text without spaces."""

_SNIFFED_BYTES = 1 << 20
_DELIMITERS = ",\t;"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A passage that a query brings along: by text, by id in the memory, by place in the knowledge source, or several.

    Attributes:
        id: the id the file gives it: a memory's passage id, or whatever the file's maker used.
        title, text: its words, where the file has them.
        wikipedia_id, start_paragraph_id, end_paragraph_id: its place, where it comes from KILT provenance.
    """

    id: str | None = None
    title: str | None = None
    text: str | None = None
    wikipedia_id: str | None = None
    start_paragraph_id: int | None = None
    end_paragraph_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question.

    Attributes:
        id: a stripped string, unique in its file; plain text has 1-based line numbers, FiD without ids counts from 0.
        question: the text, stripped, at most `MAX_QUESTION_WORDS` words.
        place: "file:line" where it stands.
        outputs: gold answers and provenance, None where the file has none.
        candidates: the passages it brings, best first; None where retrieval is to find them.
        task: the record's `task`, if it names one.
    """

    id: str
    question: str
    place: str
    outputs: tuple[Output, ...] | None = None
    candidates: tuple[Candidate, ...] | None = None
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a record begins: its index among the records, its 1-based line and its byte in the file."""

    index: int
    line: int
    offset: int


@dataclass(frozen=True, slots=True)
class Item:
    """A record met in a file: where it begins, and the query or the reason there is none. The place is "file:line"."""

    mark: Mark
    place: str
    query: Query | None
    problem: str = ""
    fatal: bool = False  # nothing after it can be read


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a format's reader must know of the file besides its bytes.

    `format` is one of `FORMATS`; `array` says that a FiD file is one JSON list; `columns` and `delimiter` are a CSV
    header's; `provenance` asks for KILT provenance as candidates.
    """

    format: str
    array: bool = False
    delimiter: str = ","
    columns: tuple[str, ...] = ()
    provenance: bool = False


def detect(handle: BinaryIO, name: str, wanted: str | None) -> Layout:
    """The layout of an open file, from its beginning and the format asked for (None: find out). Rewinds the handle.

    Raises:
        InputError: the file is empty, is UTF-16, or does not look like the format asked for.
    """
    handle.seek(0)
    head = handle.read(_SNIFFED_BYTES)
    handle.seek(0)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{name} is UTF-16; save it as UTF-8")
    if head.startswith(b"\x1f\x8b"):
        raise InputError(f"{name} is compressed; unpack it, or pipe it in: zcat {name} | glimmer answer - …")
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if not text:
        raise InputError(f"{name} holds no query")
    array = text.startswith(b"[") and text[1:].lstrip()[:1] in (b"{", b"]", b"")
    if wanted == "fid" or (wanted is None and array):
        return Layout(format="fid", array=array)
    if wanted in ("kilt", "text"):
        return Layout(format=wanted)
    if wanted is None and text.startswith(b"{"):
        return Layout(format="fid" if _looks_like_fid(text) else "kilt")
    first = text.split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    for delimiter in _DELIMITERS:
        try:
            cells = next(csv.reader([first], delimiter=delimiter), [])
        except csv.Error:
            continue  # no header of this kind
        columns = tuple(cell.strip().lower() for cell in cells)
        if "question" in columns:
            if repeated := [column for column in columns if columns.count(column) > 1]:
                raise InputError(f"{name}:1: the column {repeated[0]!r} stands twice in the header")
            return Layout(format="csv", delimiter=delimiter, columns=columns)
    if wanted == "csv":
        raise InputError(f"{name}:1: no column named question in the header ({first[:80]!r})")
    return Layout(format="text")


def _looks_like_fid(text: bytes) -> bool:
    """Whether the first readable JSON line has a question and no input."""
    for line in text.split(b"\n")[:20]:
        try:
            value = parse_json_object(line.strip())
        except RecordError:
            continue
        return "question" in value and "input" not in value
    return False


def items(handle: BinaryIO, name: str, layout: Layout, start: Mark | None = None) -> Iterator[Item]:
    """Records of a file from `start` (a mark met earlier; None: the beginning) to its end."""
    start = start or Mark(0, 1, 0)
    handle.seek(start.offset)
    if layout.format == "csv":
        yield from _csv_items(handle, name, layout, start)
    elif layout.array:
        yield from _array_items(handle, name, start)
    else:
        parse: Callable[[bytes, Mark], Query]
        if layout.format == "text":
            parse = _parse_text
        else:
            parse_object = _fid_query if layout.format == "fid" else _kilt_query

            def parse(line: bytes, mark: Mark) -> Query:
                return parse_object(parse_json_object(line), mark, layout)

        yield from _line_items(handle, name, start, parse)


def _line_items(handle: BinaryIO, name: str, start: Mark, parse: Callable[[bytes, Mark], Query]) -> Iterator[Item]:
    index, number, offset = start.index, start.line, start.offset
    while line := handle.readline(MAX_LINE_BYTES + 1):
        mark = Mark(index, number, offset)
        if len(line) > MAX_LINE_BYTES:
            yield Item(
                mark, f"{name}:{number}", None, f"the line is longer than {MAX_LINE_BYTES >> 20} MiB", fatal=True
            )
            return
        content = (line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line).strip()
        if content:
            yield _item(mark, name, lambda content=content, mark=mark: parse(content, mark))  # type: ignore[misc]
            index += 1
        number += 1
        offset += len(line)


def _array_items(handle: BinaryIO, name: str, start: Mark) -> Iterator[Item]:
    """Elements of one JSON list, a chunk at a time.

    The bytes are looked at as Latin-1, where a character is a byte, to find where an element ends (JSON's own signs are
    ASCII); the element itself is then parsed as the UTF-8 it is.
    """
    scanner = json.JSONDecoder(strict=False)
    index, line, offset = start.index, start.line, start.offset
    buffer, position, at_end = "", 0, False
    opened = start.offset > 0  # a mark stands at an element, inside the list

    def more() -> bool:
        """Reads on, keeping what is not consumed: twice as much each time, so that no byte is looked at often."""
        nonlocal buffer, position, at_end
        kept = buffer[position:]
        chunk = handle.read(max(_CHUNK_BYTES, len(kept)))
        at_end = not chunk
        buffer, position = kept + chunk.decode("latin-1"), 0
        return not at_end

    def skip(signs: str) -> None:
        nonlocal position, line, offset
        while True:
            while position < len(buffer) and buffer[position] in signs:
                line += buffer[position] == "\n"
                position += 1
                offset += 1
            if position < len(buffer) or not more():
                return

    def fatal(reason: str) -> Item:
        return Item(Mark(index, line, offset), f"{name}:{line}", None, reason, fatal=True)

    if not opened:
        skip("\xef\xbb\xbf \t\r\n")
        if buffer[position : position + 1] != "[":
            yield fatal("expected a JSON list")
            return
        position += 1
        offset += 1
    first = True
    while True:
        skip(" \t\r\n")
        sign = buffer[position : position + 1]
        if sign == "]":
            position += 1
            skip(" \t\r\n")
            if position < len(buffer):
                yield fatal("something follows the end of the JSON list")
            return
        if not first or opened:
            if sign == ",":
                position += 1
                offset += 1
                skip(" \t\r\n")
            elif not (first and opened):
                yield fatal("the JSON list is cut off" if not sign else "expected , or ] after a record")
                return
        while True:
            try:
                end = scanner.raw_decode(buffer, position)[1]
                if end < len(buffer) or at_end:
                    break
            except json.JSONDecodeError as error:
                # Only what may be the effect of the chunk's end is worth reading on for.
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(buffer) - 16
                if not cut or at_end or len(buffer) - position > MAX_LINE_BYTES:
                    line += buffer.count("\n", position, error.pos)
                    yield fatal(f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}")
                    return
            except RecursionError:
                yield fatal("not valid JSON: nested too deeply")
                return
            more()
        raw = buffer[position:end].encode("latin-1")
        mark = Mark(index, line, offset)
        yield _item(mark, name, lambda raw=raw, mark=mark: _fid_query(parse_json_object(raw), mark, None))  # type: ignore[misc]
        first = False
        index += 1
        line += raw.count(b"\n")
        offset += len(raw)
        position = end


def _csv_items(handle: BinaryIO, name: str, layout: Layout, start: Mark) -> Iterator[Item]:
    offset, number, broken = start.offset, start.line, ""

    def lines() -> Iterator[str]:
        nonlocal offset, number, broken
        while line := handle.readline(MAX_LINE_BYTES + 1):
            content = line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line
            offset += len(line)
            number += 1
            try:
                yield content.decode("utf-8")
            except UnicodeDecodeError as error:
                broken = f"not valid UTF-8 at byte {error.start} of the line"
                yield content.decode("utf-8", "replace")

    rows = csv.reader(lines(), delimiter=layout.delimiter, strict=True)
    header_read = start.offset > 0
    index = start.index
    while True:
        mark = Mark(index, number, offset)
        broken = ""
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            # The reader has lost its place: what follows would be guesswork.
            yield Item(mark, f"{name}:{mark.line}", None, f"not valid CSV: {error}", fatal=True)
            return
        if not any(cell.strip() for cell in row):
            continue
        if not header_read:
            header_read = True
            continue
        if broken:
            yield Item(mark, f"{name}:{mark.line}", None, broken)
        else:
            yield _item(mark, name, lambda row=row, mark=mark: _csv_query(row, layout.columns, mark))  # type: ignore[misc]
        index += 1


def _item(mark: Mark, name: str, parse: Callable[[], Query]) -> Item:
    place = f"{name}:{mark.line}"
    try:
        return Item(mark, place, replace(parse(), place=place))
    except RecordError as problem:
        return Item(mark, place, None, str(problem))


def _parse_text(line: bytes, mark: Mark) -> Query:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"not valid UTF-8 at byte {error.start} of the line") from None
    return Query(id=str(mark.line), question=_question(text), place="")


def _kilt_query(value: Mapping[str, Any], mark: Mark, layout: Layout | None) -> Query:
    if "input" not in value:
        raise RecordError("no input (the question of a KILT record)")
    if "id" not in value:
        raise RecordError("no id")
    outputs = parse_outputs(value["output"]) if value.get("output") is not None else None
    candidates = _passage_ids(value)
    if candidates is None and layout is not None and layout.provenance:
        candidates = _provenance_candidates(outputs)
    return Query(
        id=parse_id(value["id"]),
        question=_question(value["input"]),
        place="",
        outputs=outputs,
        candidates=candidates,
        task=_task(value),
    )


def _provenance_candidates(outputs: tuple[Output, ...] | None) -> tuple[Candidate, ...]:
    pages = dict.fromkeys(_page_key(page) for output in outputs or () for page in output.provenance or ())
    found = tuple(
        Candidate(id=id_, title=title, wikipedia_id=page, start_paragraph_id=first, end_paragraph_id=last)
        for id_, title, page, first, last in pages
        if id_ is not None or page is not None
    )
    if not found:
        raise RecordError("no provenance to take candidates from")
    return found


def _page_key(page: Provenance) -> tuple[str | None, str | None, str | None, int | None, int | None]:
    return page.passage_id, page.title, page.wikipedia_id, page.start_paragraph_id, page.end_paragraph_id


def _fid_query(value: Mapping[str, Any], mark: Mark, layout: Layout | None) -> Query:
    if "question" not in value:
        raise RecordError("no question")
    answers = value.get("answers")
    if answers is None:
        answers = [value["target"]] if value.get("target") is not None else None
    outputs = None
    if answers is not None:
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise RecordError("answers must be a list of strings, and target a string")
        outputs = tuple(Output(answer=answer) for answer in answers)
    candidates = _passage_ids(value)
    if value.get("ctxs") is not None:
        if candidates is not None:
            raise RecordError("both ctxs and passage_ids; give one")
        candidates = _contexts(value["ctxs"])
    return Query(
        id=parse_id(value["id"]) if value.get("id") is not None else str(mark.index),
        question=_question(value["question"]),
        place="",
        outputs=outputs,
        candidates=candidates,
        task=_task(value),
    )


def _contexts(contexts: object) -> tuple[Candidate, ...]:
    if not isinstance(contexts, list) or not all(isinstance(context, dict) for context in contexts):
        raise RecordError("ctxs must be a list of objects")
    if not contexts:
        raise RecordError("ctxs is empty; leave it out to have passages retrieved")
    found = []
    for context in contexts:
        for name in ("title", "text"):
            if context.get(name) is not None and not isinstance(context[name], str):
                raise RecordError(f"{name} of a ctx must be a string")
        id_ = parse_id(context["id"]) if context.get("id") is not None else None
        if id_ is None and not context.get("text"):
            raise RecordError("a ctx has neither id nor text")
        found.append(Candidate(id=id_, title=context.get("title"), text=context.get("text")))
    return tuple(found)


def _passage_ids(value: Mapping[str, Any]) -> tuple[Candidate, ...] | None:
    ids = value.get("passage_ids")
    if ids is None:
        return None
    if not isinstance(ids, list):
        raise RecordError("passage_ids must be a list of strings")
    if not ids:
        raise RecordError("passage_ids is empty; leave it out to have passages retrieved")
    return tuple(Candidate(id=parse_id(id_)) for id_ in ids)


def _csv_query(row: list[str], columns: tuple[str, ...], mark: Mark) -> Query:
    if len(row) != len(columns):
        raise RecordError(f"{len(row)} cells, but the header has {len(columns)}")
    cells = dict(zip(columns, row, strict=True))
    return Query(
        id=parse_id(cells["id"]) if "id" in cells else str(mark.index + 1),
        question=_question(cells["question"]),
        place="",
        outputs=(Output(answer=cells["answer"]),) if "answer" in cells else None,
        task=cells.get("task") or None,
    )


def _task(value: Mapping[str, Any]) -> str | None:
    task = value.get("task")
    if task is not None and not isinstance(task, str):
        raise RecordError("task must be a string")
    return task


def _question(value: object) -> str:
    if not isinstance(value, str):
        raise RecordError("the question must be a string")
    question = value.strip()
    if not question:
        raise RecordError("the question is empty")
    words = len(question.split())
    if words > MAX_QUESTION_WORDS:
        raise RecordError(f"the question has {words:,} words; at most {MAX_QUESTION_WORDS:,} are accepted")
    if len(question) > MAX_QUESTION_CHARACTERS:
        limit = f"{MAX_QUESTION_CHARACTERS:,}"
        raise RecordError(f"the question has {len(question):,} characters; at most {limit} are accepted")
    return question
