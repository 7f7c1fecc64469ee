"""Which field of a query file is what: one table of the names that data sets use, for JSON keys and table columns.

Names are compared without case. Where a file has several names of one kind the first in the table counts; `--field`
says otherwise, or names a field that the table does not know.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ... import InputError, UsageError
from .kilt import Output, RecordError

KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "id": (
        *("id", "_id", "qid", "query_id", "queryid", "question_id", "questionid", "q_id"),
        *("example_id", "sample_id", "uid"),
    ),
    "question": (
        *("question", "query", "question_text", "query_text", "questiontext", "querytext"),
        *("input", "text", "claim", "prompt"),
    ),
    "answers": (
        *("answers", "answer", "golden_answers", "golden_answer", "gold_answers", "gold_answer"),
        *("target", "targets", "gold", "short_answers", "reference", "references"),
    ),
}
"""Kind of field -> its names, most telling first."""

_PASSAGE_NAMES: Final = ("title", "wikipedia_title", "contents", "passage", "body")
"""Beside one of these, `text` is a passage's: a corpus was given where questions belong."""

_MAX_LITERAL: Final = 1 << 18
_STRING: Final = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|-?\d+(?:\.\d+)?")
_BLANK: Final = re.compile(r"\s*")


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The fields of one file, as the file spells them; tables without a header have column numbers from 1.

    `answers` may name several, of which a record's first counts. None and () where the file has none.
    """

    question: str | None
    id: str | None = None
    answers: tuple[str, ...] = ()
    other: tuple[tuple[str, str], ...] = ()  # what else is used, (kind, name)

    def described(self) -> dict[str, str]:
        """Kind -> name, for people."""
        found = {"id": self.id, "question": self.question, "answers": "/".join(self.answers)}
        return {kind: name for kind, name in found.items() if name} | dict(self.other)


def parse_field_options(options: Iterable[str]) -> dict[str, str]:
    """`("question=Frage", …)` as {"question": "Frage"}.

    Raises:
        UsageError: no kind of that name, no value, or a kind given twice.
    """
    found: dict[str, str] = {}
    for option in options:
        kind, equals, name = option.partition("=")
        kind, name = kind.strip(), name.strip()
        if not equals or not name or kind not in KNOWN:
            raise UsageError(f"--field {option}: write KIND=NAME, where KIND is {', '.join(KNOWN)}")
        if kind in found:
            raise UsageError(f"--field {kind} is given twice")
        found[kind] = name
    return found


def choose_fields(names: Sequence[str], wanted: Mapping[str, str], where: str, what: str) -> Fields:
    """The fields among `names` (as the file spells them, in order); the question is None where none is known.

    `where` and `what` ("file:1", "column") word the errors.

    Raises:
        InputError: a wanted field does not exist, a used column stands twice, or the file holds passages.
    """
    spelled: dict[str, str] = {}
    for name in names:
        spelled.setdefault(name.strip().lower(), name)
    lower = [name.strip().lower() for name in names]

    def pick(kind: str) -> list[str]:
        if kind in wanted:
            if wanted[kind].lower() not in spelled:
                raise InputError(f"{where}: no {what} named {wanted[kind]!r} (there are: {shown(names)})")
            return [wanted[kind].lower()]
        return [name for name in KNOWN[kind] if name in spelled]

    question, id_, answers = pick("question")[:1], pick("id")[:1], pick("answers")
    for name in (*question, *id_, *answers):
        if lower.count(name) > 1:
            raise InputError(f"{where}: the {what} {name!r} stands twice in the header")
    if question == ["text"] and "question" not in wanted and (titles := [n for n in _PASSAGE_NAMES if n in spelled]):
        raise InputError(
            f"{where}: records with {titles[0]} and text are passages, not questions; if text is the question, say "
            "--field question=text"
        )
    return Fields(
        question=spelled[question[0]] if question else None,
        id=spelled[id_[0]] if id_ else None,
        answers=tuple(spelled[name] for name in answers),
    )


def shown(names: Iterable[str]) -> str:
    """Field names for an error message, not too many of them."""
    listed = [name if len(name) <= 40 else f"{name[:40]}…" for name in names]
    return ", ".join(listed[:12]) + (", …" if len(listed) > 12 else "")


def how_to_say() -> str:
    """The end of a refusal: what to write where the question could not be told."""
    known = ", ".join(KNOWN["question"])
    return (
        f"name the question with --field question=NAME (and --field id=NAME, --field answers=NAME; known for the "
        f"question: {known}), or read every line as a question with --format text"
    )


def parse_answers(value: object) -> tuple[Output, ...]:
    """Gold answers as outputs: a string or number, a list of them, SQuAD's `{"text": […]}`, TriviaQA's aliases.

    Raises:
        RecordError: it is something else.
    """
    if isinstance(value, dict):
        if isinstance(value.get("text"), list | str):  # SQuAD
            value = value["text"]
        elif isinstance(value.get("value"), str):  # TriviaQA
            aliases = value.get("aliases")
            value = [value["value"], *(aliases if isinstance(aliases, list) else ())]
    listed: list[Any] = value if isinstance(value, list) else [value]
    if any(isinstance(each, bool) or not isinstance(each, str | int | float) for each in listed):
        raise RecordError("answers must be a string or a list of strings")
    return tuple(Output(answer=str(each)) for each in listed)


def literal_answers(cell: str) -> list[str] | None:
    """The strings of a list as JSON or Python writes it, such as `['a', "b"]`; None for anything else.

    Only strings and numbers between commas count: nothing is evaluated, and numpy's `['a' 'b']` is no list.
    """
    cell = cell.strip()
    if not (cell.startswith("[") and cell.endswith("]")) or len(cell) > _MAX_LITERAL:
        return None
    try:
        listed = orjson.loads(cell)
        if all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in listed):
            return [str(each) for each in listed]
    except orjson.JSONDecodeError:
        pass  # Python's quotes
    found: list[str] = []
    position, end = _after_blank(cell, 1), len(cell) - 1
    while position < end:
        literal = _STRING.match(cell, position, end)
        if literal is None:
            return None
        text = _unquoted(literal.group())
        if text is None:
            return None
        found.append(text)
        position = _after_blank(cell, literal.end())
        if position < end:
            if cell[position] != ",":
                return None
            position = _after_blank(cell, position + 1)
    return found


def cell_answers(cell: str) -> tuple[Output, ...]:
    """The answers in a table's cell: a list, or one answer."""
    listed = literal_answers(cell)
    return parse_answers([cell] if listed is None else listed)


def _after_blank(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return position if found is None else found.end()


def _unquoted(literal: str) -> str | None:
    if literal[0] not in "'\"":
        return literal  # a number
    if "\\" not in literal:
        return literal[1:-1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape, "\d", is kept as it stands
            return str(ast.literal_eval(literal)).encode("utf-8", "replace").decode()  # no half of a surrogate pair
    except (ValueError, SyntaxError):
        return None
