"""KILT records: gold files, guess files, and the predictions Glimmer writes.

KILT is the JSON-lines format that questions, gold answers and predictions of knowledge-intensive tasks share. This
module parses gold and guess files strictly (every bad line is named before anything is scored) and builds the lines
that `predictions` appends. `metrics` scores the records; `queries` reuses the gold outputs it meets in query files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from ... import InputError, StorageError
from ...storage.inputs import InputFile

MAX_REPORTED_PROBLEMS = 20
"""Bad lines listed one by one in an error message; the rest are counted."""

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest line (or JSON element) accepted; a longer one is a file that is not what it claims to be."""


PROBABILITY_DIGITS = 4
"""Significant digits of a probability in a prediction file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """One piece of evidence: a span of a knowledge-source page.

    Every field is None where the record leaves it out or has null. `text` in a guess lets answer-in-context be scored;
    `score` is the reader's, best first.
    """

    wikipedia_id: str | None = None
    title: str | None = None
    start_paragraph_id: int | None = None
    end_paragraph_id: int | None = None
    text: str | None = None
    score: float | None = None
    passage_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One element of a record's `output`: an answer, an evidence set, or both.

    `provenance` is None where the record has no such key, and empty where it has an empty list: KILT's scorer counts
    the latter as an evidence set that no guess completes.
    """

    answer: str | None = None
    provenance: tuple[Provenance, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A gold or guess record. `id` is stripped; `place` is "file:line"; `task` is the record's own `task` key."""

    id: str
    place: str
    question: str | None
    outputs: tuple[Output, ...]
    task: str | None = None


class RecordError(ValueError):
    """A record that cannot be used; its message is the reason alone, the caller knows the place."""


def parse_id(value: object) -> str:
    """A record's id as KILT compares ids: a stripped string. Integers are accepted, as FiD files have them."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RecordError(f"id must be a string or an integer, not {_kind(value)}")
    text = str(value).strip()
    if not text:
        raise RecordError("id is empty")
    return text


def parse_outputs(value: object) -> tuple[Output, ...]:
    """The `output` list of a KILT record.

    Raises:
        RecordError: something in it has the wrong type.
    """
    if not isinstance(value, list):
        raise RecordError(f"output must be a list, not {_kind(value)}")
    return tuple(_parse_output(item) for item in value)


def _parse_output(item: object) -> Output:
    if not isinstance(item, dict):
        raise RecordError(f"an output must be an object, not {_kind(item)}")
    answer = item.get("answer")
    if isinstance(answer, bool | list | dict):
        raise RecordError(f"an answer must be a string, not {_kind(answer)}")
    pages: tuple[Provenance, ...] | None = None
    if "provenance" in item:
        listed = item["provenance"]
        if not isinstance(listed, list):
            raise RecordError(f"provenance must be a list, not {_kind(listed)}")
        pages = tuple(_parse_provenance(page) for page in listed)
    return Output(answer=None if answer is None else str(answer), provenance=pages)


def _parse_provenance(page: object) -> Provenance:
    if not isinstance(page, dict):
        raise RecordError(f"a provenance must be an object, not {_kind(page)}")
    page_id = page.get("wikipedia_id")
    if isinstance(page_id, bool | list | dict):
        raise RecordError(f"wikipedia_id must be a string, not {_kind(page_id)}")
    for name in ("title", "wikipedia_title", "text", "passage_id"):
        if page.get(name) is not None and not isinstance(page[name], str):
            raise RecordError(f"{name} of a provenance must be a string, not {_kind(page[name])}")
    if (title := page.get("title")) is None:
        title = page.get("wikipedia_title")  # as KILT's own retrieval calls it
    return Provenance(
        wikipedia_id=None if page_id is None else str(page_id).strip(),
        title=title,
        start_paragraph_id=_integer(page, "start_paragraph_id"),
        end_paragraph_id=_integer(page, "end_paragraph_id"),
        text=page.get("text"),
        score=_number(page, "score"),
        passage_id=page.get("passage_id"),
    )


def _integer(page: Mapping[str, Any], name: str) -> int | None:
    value = page.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise RecordError(f"{name} must be an integer, not {_kind(value)}")
    return value


def _number(page: Mapping[str, Any], name: str) -> float | None:
    value = page.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise RecordError(f"{name} must be a number, not {_kind(value)}")
    try:
        number = float(value)  # KILT's own retrieval writes scores as strings
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RecordError(f"{name} must be a number, not {str(value)[:40]!r}")
    return number


def _kind(value: object) -> str:
    """What a JSON reader would call the value's type."""
    names = {bool: "a boolean", dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def parse_json_object(line: bytes) -> dict[str, Any]:
    """One JSON line as an object; broken UTF-8 and broken JSON are told apart in the reason.

    Raises:
        RecordError: not UTF-8, not JSON, or not an object.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as broken:
            raise RecordError(f"not valid UTF-8 at byte {broken.start} of the line") from None
        reason = str(error)
        raise RecordError(f"not valid JSON: {reason[:1].lower()}{reason[1:]}") from None
    if not isinstance(value, dict):
        raise RecordError(f"expected a JSON object, found {_kind(value)}")
    return value


class Problems:
    """Collects what is wrong with a file, so that all of it can be told at once."""

    def __init__(self) -> None:
        self.count = 0
        self._listed: list[str] = []

    def add(self, place: str, reason: str) -> None:
        """Counts a problem; the first `MAX_REPORTED_PROBLEMS` are kept for the message."""
        self.count += 1
        if len(self._listed) < MAX_REPORTED_PROBLEMS:
            self._listed.append(f"{place}: {reason}")

    def raise_if_any(self, what: str) -> None:
        """Raises InputError listing the problems, on one line, if there are any."""
        if not self.count:
            return
        if self.count == 1:
            raise InputError(self._listed[0])
        rest = self.count - len(self._listed)
        listed = "; ".join([*self._listed, *([f"… and {rest} more"] if rest else [])])
        raise InputError(f"{self.count} bad records in {what}: {listed}")


def read_lines(path: Path | InputFile) -> Iterator[tuple[int, bytes]]:
    """(1-based line number, line without its end) of every line that is not blank.

    Raises:
        InputError: the file does not exist, or a line is longer than `MAX_LINE_BYTES`.
        StorageError: the file cannot be read.
    """
    name, place = (path.name, path.path) if isinstance(path, InputFile) else (str(path), path)
    try:
        with place.open("rb") as handle:
            number = 0
            while line := handle.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{name}:{number}: the line is longer than {MAX_LINE_BYTES >> 20} MiB")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if stripped := line.strip():
                    yield number, stripped
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except OSError as error:
        raise StorageError(f"{name} cannot be read: {error.strerror}") from error


def read_gold(path: Path | InputFile) -> list[Record]:
    """Every record of a KILT gold file, in order; an `InputFile` has to be plain.

    Raises:
        InputError: bad or duplicate records, each named with its line; or a file without a record.
    """
    return _read_records(path, _parse_gold)


def read_guess(path: Path | InputFile) -> list[Record]:
    """Every record of a guess (prediction) file, in order, each with exactly one output.

    An `InputFile` has to be plain. The output's answer is None where the record has pages alone, as KILT's own
    retrieval writes them (see `_merged_guess`).

    Raises:
        InputError: bad or duplicate records, each named with its line.
    """
    return _read_records(path, _parse_guess)


def _read_records(path: Path | InputFile, parse: Any) -> list[Record]:
    problems = Problems()
    records: list[Record] = []
    first_line: dict[str, int] = {}
    name = path.name if isinstance(path, InputFile) else str(path)
    for number, line in read_lines(path):
        place = f"{name}:{number}"
        try:
            record = parse(parse_json_object(line), place)
            if record.id in first_line:
                raise RecordError(f"id {record.id!r} is already used at line {first_line[record.id]}")
        except RecordError as problem:
            problems.add(place, str(problem))
            continue
        first_line[record.id] = number
        records.append(record)
    problems.raise_if_any(name)
    return records


def _parse_gold(value: dict[str, Any], place: str) -> Record:
    if "output" not in value:
        raise RecordError("no output; a gold record has its answers and provenance there")
    return _record(value, place)


def _parse_guess(value: dict[str, Any], place: str) -> Record:
    record = _record(value, place)
    if not record.outputs:
        raise RecordError("a guess has exactly one output, this one has 0")
    merged = _merged_guess(record.outputs)
    if not merged.provenance and not any("answer" in each for each in value["output"]):
        raise RecordError('the output has no answer and no pages; an empty answer is written "answer": ""')
    return replace(record, outputs=(merged,))


def _merged_guess(outputs: Sequence[Output]) -> Output:
    """A guess's outputs as one: its answer, if any, and the pages of all in order.

    KILT's retrieval writes pages without an answer and then, in outputs of their own, copies of the gold answers: an
    answer that stands alone behind pages is gold, not a guess, and does not count.

    Raises:
        RecordError: several answers.
    """
    retrieved = outputs[0].answer is None and bool(outputs[0].provenance)
    answers = [each.answer for each in outputs if each.answer is not None and not (retrieved and not each.provenance)]
    if len(answers) > 1:
        raise RecordError(f"a guess has exactly one output, this one has {len(answers)} with an answer")
    lists = [each.provenance for each in outputs if each.provenance is not None]
    pages = tuple(page for listed in lists for page in listed) if lists else None
    return Output(answer=answers[0] if answers else None, provenance=pages)


def _record(value: dict[str, Any], place: str) -> Record:
    if "id" not in value:
        raise RecordError("no id")
    question = value.get("input")
    if question is not None and not isinstance(question, str):
        raise RecordError(f"input must be a string, not {_kind(question)}")
    task = value.get("task")
    if task is not None and not isinstance(task, str):
        raise RecordError(f"task must be a string, not {_kind(task)}")
    return Record(
        id=parse_id(value["id"]),
        place=place,
        question=question,
        outputs=parse_outputs(value.get("output", [])),
        task=task,
    )


def gold_answers(outputs: Sequence[Output]) -> list[str]:
    """The answers that count as right: stripped, not empty, each once, in order."""
    answers = (output.answer.strip() for output in outputs if output.answer is not None)
    return list(dict.fromkeys(answer for answer in answers if answer))


def prediction_line(
    *,
    id: str,
    answer: str,
    provenance: Sequence[Provenance],
    probability: float | None = None,
    note: str | None = None,
) -> bytes:
    """One line of a prediction file, its line feed included.

    `provenance` stands best first; fields that are None are left out. `note`, a remark such as that the question was
    shortened, and `probability`, that of the answer, are keys of the record that scorers ignore.
    """
    pages = [
        {name: value for name in Provenance.__slots__ if (value := getattr(page, name)) is not None}
        for page in provenance
    ]
    record: dict[str, Any] = {"id": id, "output": [{"answer": answer, "provenance": pages}]}
    if probability is not None:
        record["probability"] = float(f"{probability:.{PROBABILITY_DIGITS}g}")
    if note is not None:
        record["note"] = note
    return orjson.dumps(record) + b"\n"
