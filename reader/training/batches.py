"""Batches of fixed shapes for the train step, made anew from (seed, step): nothing is carried from one to the next.

Widths are those of the batch's longest question, passage and answer, rounded up to a few buckets, so that a run
compiles a handful of programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ...storage.memory import Memory
from .examples import Example
from .losses import Questions
from .mixture import Mixture

_LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)


class BatchSource:
    """Makes the batch of any step.

    Args:
        tasks: the examples of each task.
        mixture: draws from them; its sizes are theirs.
        memory: where their candidates lie.
        shape: (A, B): parts accumulated, questions in each.
        candidates: passages of a question (m).
        most: the longest question and answer, in tokens.
        pad: (encoder's, decoder's) padding ids.
        as_tokens: give passages as tokens instead of stored codes.
        seed: of the choice among a question's answers.
    """

    def __init__(
        self,
        tasks: Sequence[Sequence[Example]],
        mixture: Mixture,
        memory: Memory,
        *,
        shape: tuple[int, int],
        candidates: int,
        most: tuple[int, int],
        pad: tuple[int, int],
        as_tokens: bool,
        seed: int,
    ) -> None:
        self._tasks, self._mixture, self._memory = tasks, mixture, memory
        self._shape, self._candidates, self._pad = shape, candidates, pad
        self._as_tokens, self._seed = as_tokens, seed
        self._questions, self._answers = (_buckets(length) for length in most)
        self._passages = sorted({-(-memory.window * eighths // 8) for eighths in (4, 6, 8)})

    def __iter__(self) -> Iterator[Questions]:
        return self.batches(0)

    def batches(self, step: int) -> Iterator[Questions]:
        """The batches of `step`, the next one, and so on without end."""
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> Questions:
        """The batch of step `step` (from 0), NumPy arrays [A, B, ...]."""
        rows = self._shape[0] * self._shape[1]
        examples: list[Example] = []
        answers: list[npt.NDArray[np.int32]] = []
        for number in range(step * rows, (step + 1) * rows):
            draw = self._mixture.draw(number)
            example = self._tasks[draw.task][draw.example]
            choice = np.random.default_rng([self._seed, 2, number]).integers(len(example.answers))
            examples.append(example)
            answers.append(example.answers[choice])
        passages, counts = self._fetched([example.positions for example in examples])
        tokens, lengths = _padded([example.question for example in examples], self._questions, self._pad[0])
        targets, target_lengths = _padded(answers, self._answers, self._pad[1])
        flat = (
            tokens,
            lengths,
            passages,
            counts,
            targets,
            target_lengths,
            np.array([example.weight for example in examples], np.float32),
        )
        return Questions(*(array.reshape(*self._shape, *array.shape[1:]) for array in flat))  # type: ignore[arg-type]

    def _fetched(
        self, positions: Sequence[npt.NDArray[np.int64]]
    ) -> tuple[npt.NDArray[np.uint8] | npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Codes uint8 [N, m, L, code_bytes] or tokens int32 [N, m, L], and their number int32 [N, m]."""
        counts = np.zeros((len(positions), self._candidates), np.int32)
        distinct, places = np.unique(np.concatenate(positions), return_inverse=True)
        if self._as_tokens:
            rows = [np.asarray(passage.tokens, np.int32) for passage in self._memory.texts(distinct)]
            stored, held = _padded(rows, self._passages, self._pad[0])
        else:
            codes, held = self._memory.fetch(distinct)
            stored = codes[:, : _bucket(self._passages, int(held.max()))]  # type: ignore[assignment]
        passages = np.zeros((*counts.shape, *stored.shape[1:]), stored.dtype)
        start = 0
        for row, each in enumerate(positions):
            own = places[start : start + len(each)]
            passages[row, : len(each)] = stored[own]
            counts[row, : len(each)] = held[own]
            start += len(each)
        return passages, counts


def _padded(
    rows: Sequence[npt.NDArray[np.int32]], buckets: Sequence[int], pad: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    lengths = np.array([len(row) for row in rows], np.int32)
    padded = np.full((len(rows), _bucket(buckets, int(lengths.max()))), pad, np.int32)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return padded, lengths


def _buckets(most: int) -> list[int]:
    return sorted({min(length, most) for length in _LENGTHS} | {most})


def _bucket(buckets: Sequence[int], length: int) -> int:
    return next(bucket for bucket in buckets if bucket >= length)
