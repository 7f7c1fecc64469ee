"""Questions as the reader's tokens: what is too long for it is shortened, skipped or refused, as the job says.

The model's positions bound a question and a passage together, so how many tokens of a question are read depends on the
model and the memory. Cutting is done between the tokens of the whole question.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from ... import InputError, ModelError
from ...encoders.models import LoadedModel
from ..formats.long_questions import MENTION, LongQuestions, kept_part, shortened_note, skipped_note, token_window
from ..formats.queries import Query

_AT_ONCE = 64  # questions tokenised together
_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class ReadQuestion:
    """A question as the encoder reads it: int32 [n] tokens, and what became of one that was too long."""

    tokens: npt.NDArray[np.int32]
    note: str | None
    skipped: bool


@dataclass(frozen=True, slots=True)
class LongCounts:
    """Queries of a file whose question was shortened, and those that are skipped for their length."""

    shortened: int = 0
    skipped: int = 0

    def __bool__(self) -> bool:
        return bool(self.shortened or self.skipped)

    def __str__(self) -> str:
        parts = [(self.shortened, "shortened"), (self.skipped, "skipped")]
        return ", ".join(f"{count:,} {what}" for count, what in parts if count)


class QuestionReader:
    """Turns questions into at most `most` tokens, special ones and the template's included; `rule` for longer ones.

    Raises ModelError where not even a token of a question has room.
    """

    def __init__(self, model: LoadedModel, most: int, rule: LongQuestions) -> None:
        self._model, self._most, self._rule = model, most, rule
        self._frame = model.question_tokens([""])[0]
        if most <= len(self._frame):
            raise ModelError(
                f"{model.path}: passages of this memory leave room for {max(most, 0)} tokens of a question in the "
                f"encoder's {model.config.encoder.max_positions} positions; its special tokens alone are "
                f"{len(self._frame)}"
            )

    def read(self, queries: Sequence[Query]) -> list[ReadQuestion]:
        """The questions of `queries`, in order.

        Raises:
            InputError: one is too long and the rule is to fail.
        """
        encoded = self._model.question_tokens([query.question for query in queries])
        return [self._fitted(query, ids) for query, ids in zip(queries, encoded, strict=True)]

    def check(self, queries: Iterable[Query]) -> LongCounts:
        """How many questions are too long, before any work.

        Raises:
            InputError: the rule is to fail; the first twenty are named.
        """
        shortened = skipped = 0
        problems: list[str] = []
        # A token is at least a character, but for special ones and what normalisation adds.
        doubtful = (query for query in queries if query.note is not None or 2 * len(query.question) > self._most)
        while len(problems) < _SHOWN_PROBLEMS and (group := list(islice(doubtful, _AT_ONCE))):
            encoded = self._model.question_tokens([query.question for query in group])
            for query, ids in zip(group, encoded, strict=True):
                try:
                    read = self._fitted(query, ids)
                except InputError as error:
                    problems.append(str(error))
                    continue
                skipped += read.skipped
                shortened += read.note is not None and not read.skipped
        if problems:
            raise InputError("; ".join(problems[:_SHOWN_PROBLEMS]))
        return LongCounts(shortened, skipped)

    def _fitted(self, query: Query, ids: npt.NDArray[np.int32]) -> ReadQuestion:
        if query.skipped or len(ids) <= self._most:
            return ReadQuestion(ids, query.note, query.skipped)
        if self._rule == "fail":
            raise InputError(
                f"{query.place}: the question has {len(ids):,} tokens; this reader takes at most {self._most:,} "
                "(--long-questions shortens or skips such questions)"
            )
        if self._rule == "skip":
            return ReadQuestion(ids, skipped_note(len(ids), self._most, "tokens"), True)
        before = _equal_start(ids, self._frame)
        after = len(self._frame) - before
        body = ids[before : len(ids) - after]
        part, centre = kept_part(query.question, self._rule), 0
        if part == "around":
            ahead = query.question[: query.question.index(MENTION)]
            centre = len(self._model.tokenizer.encode_plain([ahead])[0])
        start, stop = token_window(len(body), self._most - len(self._frame), part, centre)
        note = shortened_note(part, stop - start, len(body), "tokens")
        return ReadQuestion(
            np.concatenate([ids[:before], body[start:stop], ids[len(ids) - after :]]),
            note if query.note is None else f"{query.note}; {note}",
            False,
        )


def _equal_start(ids: npt.NDArray[np.int32], frame: npt.NDArray[np.int32]) -> int:
    """How many tokens of `frame`, those of an empty question, stand before the question in `ids`."""
    differing = np.flatnonzero(ids[: len(frame)] != frame)
    return int(differing[0]) if len(differing) else len(frame)
