"""What a query file's reader must know of it besides its bytes: found once, sent along to workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .long_questions import LongQuestions
from .query_fields import Fields

FORMATS: Final = ("kilt", "fid", "json", "csv", "tsv", "text")
"""kilt, fid, json: objects a line or in one list; csv: rows of quoted cells; tsv: lines cut at tabs; text: lines."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a file is taken apart.

    Attributes:
        format: one of `FORMATS`.
        fields: which field is what.
        array: JSON: one list, not an object a line.
        delimiter: tables: what stands between cells.
        width: tables: cells of a row.
        leading: tables: rows before the first record (a header, Excel's `sep=;`).
        question, id, answers, task: tables: columns from 0.
        answer_lists: tables: every cell of answers must be a list, as it was in the lines looked at.
        provenance: KILT's gold provenance is wanted as candidates.
        long_questions: what is done with questions that are too long.
    """

    format: str
    fields: Fields
    array: bool = False
    delimiter: str = ","
    width: int = 0
    leading: int = 0
    question: int = 0
    id: int | None = None
    answers: int | None = None
    task: int | None = None
    answer_lists: bool = False
    provenance: bool = False
    long_questions: LongQuestions = "fail"
