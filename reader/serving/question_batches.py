"""Queries made ready for the device: tokens, candidates and their codes, grouped into batches of fixed shapes.

A batch's shape follows from each of its queries alone: the question's length and that query's longest candidate, each
rounded up to one of a few buckets. So a query is always computed at the same shape, whatever surrounds it, and its
answer does not depend on its neighbours. Batches are filled as queries come, in whatever order shapes fill up; a query
waits for at most `HELD` batches' worth of later ones, which bounds what is held and what a crash can cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ...encoders.models import LoadedModel
from ..formats.queries import LongQuestions, Query
from .candidates import CandidateFinder, Found
from .clock import Clock
from .passage_source import PassageSource
from .question_reader import QuestionReader, ReadQuestion

QUESTION_LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
"""Buckets of question tokens. A question of 1,024 words, the longest accepted, has about 1,500."""

HELD = 8
"""Batches' worth of queries that a query waits for others of its shape before its batch runs partly filled."""

_LOOKED_UP = 64  # queries tokenised and retrieved together


class Shape(NamedTuple):
    """Tokens of a compiled shape: of the question, and of each passage."""

    question: int
    passage: int


class Shapes:
    """The buckets of one reader over one memory."""

    def __init__(self, model: LoadedModel, window: int) -> None:
        # The passage goes on where the question ends: learned positions bound the two together.
        room = model.config.encoder.max_positions
        most = QUESTION_LENGTHS[-1] if room is None else min(QUESTION_LENGTHS[-1], room - window)
        self.longest_question = most
        self._questions = sorted({min(length, most) for length in QUESTION_LENGTHS})
        self._passages = passage_widths(window)

    def of(self, question: int, passage: int) -> Shape:
        """The smallest shape that holds this many tokens of each."""
        return Shape(smallest(self._questions, question), smallest(self._passages, max(passage, 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A query ready to be answered.

    Attributes:
        number: its place in the query file, from 0.
        query: the query itself.
        tokens: int32 [n], the question as the encoder reads it.
        found: its candidates.
        lengths: int32 [len(found.positions)], tokens of each.
        codes: uint8 [len(found.positions), L, code_bytes] of each, L at least the longest; None until they are fetched.
        note: what was done to a question that was too long, None for all others.
        skipped: it was too long and is not answered.
    """

    number: int
    query: Query
    tokens: npt.NDArray[np.int32]
    found: Found
    lengths: npt.NDArray[np.int32]
    codes: npt.NDArray[np.uint8] | None = None
    note: str | None = None
    skipped: bool = False


Narrow: TypeAlias = Callable[[Sequence[Prepared]], Iterator[Prepared]]
"""Gives queries in their order with fewer candidates, which have their codes (`late_interaction`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the device computes at once; all arrays have the batch's fixed number of rows B.

    Attributes:
        shape: None for queries without a candidate, which need no device; the arrays are empty then.
        queries: at most B; the rows after them repeat the first.
        questions: int32 [B, Sq]; `question_lengths` int32 [B].
        codes: uint8 [B, m, L, code_bytes]; `passage_lengths` int32 [B, m], 0 for an absent passage.
        retrieval: float32 [B, m], the first stage's scores, 0 where there are none.
        late_scores: float32 [B, m], those of late interaction, 0 where there are none.
    """

    shape: Shape | None
    queries: list[Prepared]
    questions: npt.NDArray[np.int32]
    question_lengths: npt.NDArray[np.int32]
    codes: npt.NDArray[np.uint8]
    passage_lengths: npt.NDArray[np.int32]
    retrieval: npt.NDArray[np.float32]
    late_scores: npt.NDArray[np.float32]


class BatchMaker:
    """Turns queries into batches. Not for several threads at once: it reads payload into a buffer of its own.

    Args:
        model: whose tokenizer and question template are used.
        memory: where candidates lie.
        finder: finds them.
        rows: queries in a batch (B).
        candidates: candidates in a row (m), as the device wants them.
        long_questions: what is done with questions that the reader cannot take whole.
        clock: gets the seconds of `retrieve` (tokenising included) and `fetch`.
        narrow: chooses `candidates` of those that `finder` finds; None where it finds no more.
    """

    def __init__(
        self,
        model: LoadedModel,
        memory: PassageSource,
        finder: CandidateFinder,
        *,
        rows: int,
        candidates: int,
        long_questions: LongQuestions,
        clock: Clock,
        narrow: Narrow | None = None,
    ) -> None:
        self._model, self._memory, self._finder, self._clock = model, memory, finder, clock
        self._rows, self._candidates, self._narrow = rows, candidates, narrow
        self._shapes = Shapes(model, memory.window)
        self._questions = QuestionReader(model, self._shapes.longest_question, long_questions)
        self._buffer = np.empty((0, memory.window, memory.codec.code_bytes), np.uint8)

    def batches(self, queries: Iterable[Query], first: int) -> Iterator[Batch]:
        """Batches of `queries`, the first of which is number `first`, with their codes."""
        narrow = self._narrow or iter
        prepared = (each for group in self._prepared(queries, first) for each in narrow(group))
        for shape, ready in self._grouped(prepared):
            yield self._batch(shape, ready)

    def _prepared(self, queries: Iterable[Query], first: int) -> Iterator[list[Prepared]]:
        iterator, number = iter(queries), first
        while group := list(islice(iterator, _LOOKED_UP)):
            with self._clock.stage("retrieve"):
                questions = self._questions.read(group)
                found = self._find(group, questions)
                counts = self._memory.token_counts(np.concatenate([each.positions for each in found]))
                lengths = np.split(counts, np.cumsum([len(each.positions) for each in found])[:-1])
            yield [
                Prepared(
                    number=place,
                    query=query,
                    tokens=question.tokens,
                    found=candidates,
                    lengths=each,
                    note=question.note,
                    skipped=question.skipped,
                )
                for place, query, question, candidates, each in zip(
                    range(number, number + len(group)), group, questions, found, lengths, strict=True
                )
            ]
            number += len(group)

    def _find(self, queries: Sequence[Query], questions: Sequence[ReadQuestion]) -> list[Found]:
        """The candidates of each query; those that are skipped need none."""
        asked = [query for query, question in zip(queries, questions, strict=True) if not question.skipped]
        found = iter(self._finder.find(asked) if asked else ())
        return [Found.nothing() if question.skipped else next(found) for question in questions]

    def _grouped(self, prepared: Iterable[Prepared]) -> Iterator[tuple[Shape | None, list[Prepared]]]:
        """Groups of up to B queries of one shape, each as soon as it is full or its oldest query has waited enough."""
        waiting: defaultdict[Shape | None, list[Prepared]] = defaultdict(list)
        for each in prepared:
            shape = self._shapes.of(len(each.tokens), int(each.lengths.max())) if len(each.lengths) else None
            waiting[shape].append(each)
            if len(waiting[shape]) == self._rows:
                yield shape, waiting.pop(shape)
            late = each.number - HELD * self._rows
            for other in [key for key, group in waiting.items() if group[0].number <= late]:
                yield other, waiting.pop(other)
        yield from sorted(waiting.items(), key=lambda item: item[1][0].number)

    def _batch(self, shape: Shape | None, queries: list[Prepared]) -> Batch:
        rows = self._rows if shape is not None else 0
        question, passage = shape or Shape(0, 0)
        questions = np.full((rows, question), self._model.tokenizer.pad_id, np.int32)
        question_lengths = np.zeros(rows, np.int32)
        lengths = np.zeros((rows, self._candidates), np.int32)
        retrieval = np.zeros((rows, self._candidates), np.float32)
        late_scores = np.zeros((rows, self._candidates), np.float32)
        # A fresh array for every batch: the device may still read the one before, or use its memory as its own.
        codes = np.zeros((rows, self._candidates, passage, self._memory.codec.code_bytes), np.uint8)
        if shape is not None:
            for row, each in enumerate(queries):
                questions[row, : len(each.tokens)] = each.tokens
                question_lengths[row] = len(each.tokens)
                lengths[row, : len(each.lengths)] = each.lengths
                if each.found.scores is not None:
                    retrieval[row, : len(each.lengths)] = each.found.scores
                if each.found.late_scores is not None:
                    late_scores[row, : len(each.lengths)] = each.found.late_scores
            with self._clock.stage("fetch"):
                self._fetch(queries, codes)
            # Repeating a query ends decoding no later than its first row does; an empty row would run to the last step.
            for array in (questions, question_lengths, lengths, retrieval, late_scores, codes):
                array[len(queries) :] = array[0]
        return Batch(
            shape=shape,
            queries=queries,
            questions=questions,
            question_lengths=question_lengths,
            codes=codes,
            passage_lengths=lengths,
            retrieval=retrieval,
            late_scores=late_scores,
        )

    def _fetch(self, queries: Sequence[Prepared], codes: npt.NDArray[np.uint8]) -> None:
        """Puts the codes of the queries' candidates into `codes` [B, m, L, code_bytes]; reads those that they lack."""
        for row, each in enumerate(queries):
            if each.codes is not None:
                width = min(each.codes.shape[1], codes.shape[2])
                codes[row, : len(each.codes), :width] = each.codes[:, :width]
        lacking = [(row, each) for row, each in enumerate(queries) if each.codes is None]
        if not lacking:
            return
        positions = np.concatenate([each.found.positions for _, each in lacking])
        if len(self._buffer) < len(positions):
            most = max(len(positions), self._rows * self._candidates)
            self._buffer = np.empty((most, *self._buffer.shape[1:]), np.uint8)
        fetched, _ = self._memory.fetch(positions, out=self._buffer[: len(positions)])
        start = 0
        for row, each in lacking:
            count = len(each.found.positions)
            codes[row, :count] = fetched[start : start + count, : codes.shape[2]]
            start += count


def passage_widths(window: int) -> list[int]:
    """Buckets of passage tokens where none has more than `window`, ascending: multiples of 16, and the window."""
    return sorted({min(window, -(-window * eighths // 128) * 16) for eighths in (2, 3, 4, 5, 6, 8)})


def smallest(buckets: Sequence[int], length: int) -> int:
    """The smallest of `buckets`, which ascend, that holds `length`."""
    return next(bucket for bucket in buckets if bucket >= length)
