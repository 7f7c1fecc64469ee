"""JSON query files: one object a line, or one list of objects or of strings, taken apart record by record.

One reader for KILT, FiD, NQ-open, HotpotQA, FlashRAG, BEIR and whatever else is JSON: which key is the question, the
id or the answers is in the layout's `Fields`. A list is read in chunks, never whole.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from .kilt import MAX_LINE_BYTES, Output, Provenance, RecordError, parse_id, parse_json_object, parse_outputs
from .long_questions import shorten_text
from .query import Candidate, Item, Mark, Query, parsed
from .query_fields import parse_answers
from .query_layout import Layout

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Raw:
    """The bytes of a record, or why there are none and nothing after them can be read."""

    mark: Mark
    content: bytes
    problem: str = ""


def raw_lines(handle: BinaryIO, start: Mark) -> Iterator[Raw]:
    """Lines that are not blank, stripped."""
    index, number, offset = start.index, start.line, start.offset
    while line := handle.readline(MAX_LINE_BYTES + 1):
        mark = Mark(index, number, offset)
        if len(line) > MAX_LINE_BYTES:
            yield Raw(mark, b"", f"the line is longer than {MAX_LINE_BYTES >> 20} MiB")
            return
        content = (line.removeprefix(codecs.BOM_UTF8) if offset == 0 else line).strip()
        if content:
            yield Raw(mark, content)
            index += 1
        number += 1
        offset += len(line)


def raw_elements(handle: BinaryIO, start: Mark) -> Iterator[Raw]:
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

    def fatal(reason: str) -> Raw:
        return Raw(Mark(index, line, offset), b"", reason)

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
            except (RecursionError, ValueError) as error:
                # A number of thousands of digits is a ValueError that is no JSONDecodeError.
                nested = isinstance(error, RecursionError)
                yield fatal("not valid JSON: " + ("nested too deeply" if nested else "a number is too long"))
                return
            more()
        raw = buffer[position:end].encode("latin-1")
        yield Raw(Mark(index, line, offset), raw)
        first = False
        index += 1
        line += raw.count(b"\n")
        offset += len(raw)
        position = end


def json_items(handle: BinaryIO, name: str, layout: Layout, start: Mark) -> Iterator[Item]:
    """Records of a JSON file from `start` on."""
    for raw in (raw_elements if layout.array else raw_lines)(handle, start):
        if raw.problem:
            yield Item(raw.mark, f"{name}:{raw.mark.line}", None, raw.problem, fatal=True)
            return
        yield parsed(raw.mark, name, lambda raw=raw: _record(raw, layout))  # type: ignore[misc]


def parse_string(content: bytes) -> str | None:
    """A JSON string; None where `content` is anything else."""
    if not content.startswith(b'"'):
        return None
    try:
        return str(orjson.loads(content))
    except orjson.JSONDecodeError as error:
        raise RecordError(f"not a valid JSON string: {error}") from None


def _record(raw: Raw, layout: Layout) -> Query:
    if layout.array and (text := parse_string(raw.content)) is not None:
        return make_query(layout, id=str(raw.mark.index), question=text)
    return _query(parse_json_object(raw.content), raw.mark, layout)


def make_query(
    layout: Layout,
    *,
    id: str,
    question: object,
    outputs: tuple[Output, ...] | None = None,
    candidates: tuple[Candidate, ...] | None = None,
    task: str | None = None,
) -> Query:
    """A query, its question checked and within the limits; the place is left to the caller.

    Raises:
        RecordError: the question is no string, empty, or too long where that is refused.
    """
    if not isinstance(question, str):
        raise RecordError("the question must be a string")
    question = question.strip()
    if not question:
        raise RecordError("the question is empty")
    short = shorten_text(question, layout.long_questions)
    return Query(
        id=id,
        question=short.question,
        place="",
        outputs=outputs,
        candidates=candidates,
        task=task,
        note=short.note,
        skipped=short.skipped,
    )


def _query(value: Mapping[str, Any], mark: Mark, layout: Layout) -> Query:
    fields, kilt = layout.fields, layout.format == "kilt"
    assert fields.question is not None  # no layout of JSON objects is without
    if fields.question not in value:
        what = " (the question of a KILT record)" if fields.question == "input" else ""
        raise RecordError(f"no {fields.question}{what}")
    id_ = value.get(fields.id) if fields.id is not None else None
    if kilt and (fields.id is None or fields.id not in value):
        raise RecordError(f"no {fields.id or 'id'}")
    outputs = None
    if kilt and value.get("output") is not None:
        outputs = parse_outputs(value["output"])
    else:
        answers = next((value[name] for name in fields.answers if value.get(name) is not None), None)
        outputs = None if answers is None else parse_answers(answers)
    candidates = _passage_ids(value)
    if not kilt and value.get("ctxs") is not None:
        if candidates is not None:
            raise RecordError("both ctxs and passage_ids; give one")
        candidates = _contexts(value["ctxs"])
    if candidates is None and layout.provenance:
        candidates = _provenance_candidates(outputs)
    task = value.get("task")
    if task is not None and not isinstance(task, str):
        raise RecordError("task must be a string")
    return make_query(
        layout,
        id=parse_id(id_) if kilt or id_ is not None else str(mark.index),
        question=value[fields.question],
        outputs=outputs,
        candidates=candidates,
        task=task,
    )


def _provenance_candidates(outputs: tuple[Output, ...] | None) -> tuple[Candidate, ...]:
    """The places that the gold provenance names, each once; empty where it names none."""
    pages = dict.fromkeys(_page_key(page) for output in outputs or () for page in output.provenance or ())
    return tuple(
        Candidate(id=id_, title=title, wikipedia_id=page, start_paragraph_id=first, end_paragraph_id=last)
        for id_, title, page, first, last in pages
        if id_ is not None or page is not None
    )


def _page_key(page: Provenance) -> tuple[str | None, str | None, str | None, int | None, int | None]:
    return page.passage_id, page.title, page.wikipedia_id, page.start_paragraph_id, page.end_paragraph_id


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
