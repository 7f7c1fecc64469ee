"""Tables among query files: by their header, by columns given by number, or as MS MARCO and DPR write them.

What looks like a table and is none of these is refused, with what was found and how to say it.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ... import InputError, UsageError
from .query_fields import Fields, choose_fields, how_to_say, literal_answers, shown
from .query_layout import Layout
from .query_tables import tab_cells

_DELIMITERS: Final = ",\t;|"
_NAMES: Final = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
_EXCEL_HINT: Final = re.compile(r'^"?sep=(.)"?$', re.IGNORECASE)
_HEADING: Final = re.compile(r"[^\W\d][\w .:/()#-]{0,39}")
_NUMBERED: Final = re.compile(r'\s*"?\d+"?\s*[,;|]')
_TREC: Final = re.compile(r"\S+\s+(?:0|Q0)\s+\S+\s+-?\d+(?:\s+\S+\s+\S+)?$")


class _Table(NamedTuple):
    """The beginning of a file cut into cells one way; `leading` rows of it precede the header."""

    delimiter: str
    rows: list[list[str]]
    leading: int = 0


def table_layout(lines: Sequence[str], name: str, named: Mapping[str, str], wanted: str | None) -> Layout | None:
    """The layout of a table whose columns are known: by its header, by `named`, or as MS MARCO or DPR write it."""
    for table in _cuttings(lines, wanted):
        if table.rows:
            found = _headed(table, lines, name, named, wanted)
            if found is not None:
                return found
    if hint := _EXCEL_HINT.match(lines[0].strip()):
        columns = next(iter(_cuttings(lines, wanted))).rows[:1]
        raise InputError(
            f"{name}: a table cut at {hint.group(1)!r} with the columns {shown(columns[0] if columns else [])}: none "
            f"of them is known as the question; {how_to_say()}"
        )
    if named:
        return _numbered(lines, name, named, wanted)
    return _headless(lines, wanted)


def _cuttings(lines: Sequence[str], wanted: str | None) -> list[_Table]:
    hint = _EXCEL_HINT.match(lines[0].strip())
    if hint is not None:
        return [_cut(lines[1:], hint.group(1), 1)]
    return [_cut(lines, delimiter, 0) for delimiter in ("\t" if wanted == "tsv" else _DELIMITERS)]


def _cut(lines: Sequence[str], delimiter: str, leading: int) -> _Table:
    """Rows as far as they can be read."""
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        rows.extend(csv.reader((f"{line}\n" for line in lines), delimiter=delimiter))
    return _Table(delimiter, rows, leading)


def _headed(
    table: _Table, lines: Sequence[str], name: str, named: Mapping[str, str], wanted: str | None
) -> Layout | None:
    header = [cell.strip() for cell in table.rows[0]]
    place = f"{name}:{1 + table.leading}"
    lower = {cell.lower() for cell in header}
    if named:
        # Numbers are columns of a table without a header.
        if not any(value.lower() in lower and not value.isdigit() for value in named.values()):
            return None
    elif not (all(_is_heading(cell) for cell in header if cell) or _is_even(table)):
        return None
    fields = choose_fields(header, named, place, "column")
    if fields.question is None:
        return None
    task = next((cell for cell in header if cell.lower() == "task"), None)
    cut_at_tabs = [tab_cells(line) for line in lines[table.leading :]]
    plain = table.delimiter == "\t" and all(len(row) == len(header) for row in cut_at_tabs)
    return Layout(
        format="tsv" if wanted == "tsv" or (plain and wanted is None) else "csv",
        fields=Fields(
            question=fields.question,
            id=fields.id,
            answers=fields.answers[:1],
            other=() if task is None else (("task", task),),
        ),
        delimiter=table.delimiter,
        width=len(header),
        leading=1 + table.leading,
        question=header.index(fields.question),
        id=None if fields.id is None else header.index(fields.id),
        answers=header.index(fields.answers[0]) if fields.answers else None,
        task=None if task is None else header.index(task),
    )


def _numbered(lines: Sequence[str], name: str, named: Mapping[str, str], wanted: str | None) -> Layout | None:
    """A table without a header whose columns were given by number, from 1."""
    if not all(value.isascii() and value.isdigit() and int(value) > 0 for value in named.values()):
        columns = shown(_cut(lines[:1], _delimiter(lines, wanted), 0).rows[0])
        raise InputError(f"{name}:1: no column named {next(iter(named.values()))!r} (the first line has: {columns})")
    if "question" not in named:
        raise UsageError("columns by number need --field question=NUMBER as well")
    delimiter = _delimiter(lines, wanted)
    tabs = delimiter == "\t" and wanted != "csv"
    width = len(tab_cells(lines[0]) if tabs else _cut(lines, delimiter, 0).rows[0])
    if most := [value for value in named.values() if int(value) > width]:
        raise InputError(f"{name}:1: no column {most[0]}; the first line has {width}, cut at {_NAMES[delimiter]}")
    return _by_number(delimiter, width, {kind: int(value) - 1 for kind, value in named.items()}, tsv=tabs)


def _delimiter(lines: Sequence[str], wanted: str | None) -> str:
    """What cuts most of the lines alike, into as many cells as possible."""
    if wanted == "tsv":
        return "\t"
    return max("\t,;|", key=lambda delimiter: (_alike(lines, delimiter)[1] > 0.5, _alike(lines, delimiter)[0]))


def _alike(lines: Sequence[str], delimiter: str) -> tuple[int, float]:
    """(cells that most of the lines have which have two or more, their share of all lines)."""
    rows = [tab_cells(line) for line in lines] if delimiter == "\t" else _cut(lines, delimiter, 0).rows
    counts = [len(row) for row in rows if len(row) > 1]
    if not counts:
        return 1, 0.0
    usual = max(set(counts), key=counts.count)
    return usual, counts.count(usual) / max(len(rows), 1)


def _by_number(
    delimiter: str, width: int, columns: Mapping[str, int], *, tsv: bool, answer_lists: bool = False
) -> Layout:
    named = {kind: f"column {column + 1}" for kind, column in columns.items()}
    return Layout(
        format="tsv" if tsv else "csv",
        fields=Fields(
            question=named["question"],
            id=named.get("id"),
            answers=(named["answers"],) if "answers" in named else (),
        ),
        delimiter=delimiter,
        width=width,
        question=columns["question"],
        id=columns.get("id"),
        answers=columns.get("answers"),
        answer_lists=answer_lists,
    )


def _headless(lines: Sequence[str], wanted: str | None) -> Layout | None:
    """`qid<TAB>query` (MS MARCO), `question<TAB>[answers]` (DPR), and both: told by what stands in the columns."""
    for delimiter in "\t" if wanted == "tsv" else "\t,;":
        tabs = delimiter == "\t"
        rows = [tab_cells(line) for line in lines] if tabs else _cut(lines, delimiter, 0).rows
        width, share = _alike(lines, delimiter)
        alike = [row for row in rows if len(row) == width]
        if width not in (2, 3) or share <= 0.5:
            continue
        answers = all(literal_answers(row[-1]) is not None for row in alike)
        ids = all(_is_id(row[0]) for row in alike) and len({row[0] for row in alike}) == len(alike)
        if answers and width == 2:
            return _by_number(delimiter, 2, {"question": 0, "answers": 1}, tsv=tabs, answer_lists=True)
        if answers and ids:
            return _by_number(delimiter, 3, {"id": 0, "question": 1, "answers": 2}, tsv=tabs, answer_lists=True)
        spoken = sum(not _is_id(row[1]) for row in alike) > 0.5 * len(alike)  # and not pairs of ids
        if tabs and ids and width == 2 and spoken:
            return _by_number(delimiter, 2, {"id": 0, "question": 1}, tsv=True)
    return None


def _is_id(cell: str) -> bool:
    return 0 < len(cell) <= 64 and cell.isascii() and " " not in cell.strip() and any(map(str.isdigit, cell))


def _is_even(table: _Table) -> bool:
    """Whether there are several rows and columns, and as many cells in every row."""
    widths = {len(row) for row in table.rows}
    return len(table.rows) > 1 and len(widths) == 1 and min(widths) > 1


def _is_heading(cell: str) -> bool:
    return _HEADING.fullmatch(cell.strip()) is not None and len(cell.split()) <= 3


def refuse_tables(lines: Sequence[str], name: str) -> None:
    """InputError where the lines look like a table or like a list of judgements: they are no questions."""
    if all(_TREC.match(line) for line in lines):
        raise InputError(f"{name} is a TREC run or list of judgements, not questions; give the file of the queries")
    for delimiter in _DELIMITERS:
        width, share = _alike(lines, delimiter)
        if width < 2 or len(lines) < 2:
            continue
        header = [cell.strip() for cell in _cut(lines[:1], delimiter, 0).rows[0]]
        headings = len(header) == width and len(set(header)) == width and all(map(_is_heading, header))
        if (headings and share == 1) or (delimiter == "\t" and share > 0.5):
            what = f"the columns {shown(header)}" if headings else f"{width} columns and no header that is known"
            raise InputError(
                f"{name} looks like a table, cut at {_NAMES[delimiter]}, with {what}: which one is the question? "
                f"{how_to_say()} (a table without a header has its columns' numbers: --field question=2)"
            )
    numbered = sum(_NUMBERED.match(line) is not None for line in lines)
    if len(lines) > 1 and numbered > 0.5 * len(lines):
        raise InputError(
            f"{name} looks like a table without a header: its lines begin with a number and a delimiter; "
            f"{how_to_say()} (by number: --field id=1 --field question=2)"
        )
