"""Batches of fixed shapes for the train step, made anew from (seed, step): nothing is carried from one to the next.

Widths are those of the batch's longest question, passage and answer, rounded up to a few buckets, so that a run
compiles a handful of programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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
        passage_tokens: passages are truncated to this many tokens; 0 leaves them whole.
        as_tokens: give passages as tokens instead of stored codes.
        with_words: give their tokens too, for a decoder that copies.
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
        passage_tokens: int = 0,
        as_tokens: bool,
        with_words: bool = False,
        seed: int,
    ) -> None:
        self._tasks, self._mixture, self._memory = tasks, mixture, memory
        self._shape, self._candidates, self._pad = shape, candidates, pad
        self._as_tokens, self._with_words, self._seed = as_tokens, with_words, seed
        self._questions, self._answers = (_buckets(length) for length in most)
        self._longest = min(memory.window, passage_tokens or memory.window)
        self._passages = sorted({-(-self._longest * eighths // 8) for eighths in (4, 6, 8)})

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
        standing: list[npt.NDArray[np.int32]] = []
        drawn: list[npt.NDArray[np.int64]] = []
        for number in range(step * rows, (step + 1) * rows):
            draw = self._mixture.draw(number)
            example = self._tasks[draw.task][draw.example]
            rng = np.random.default_rng([self._seed, 2, number])
            choice = int(rng.integers(len(example.answers)))
            answers.append(example.answers[choice])
            standing.append(example.places[choice])
            examples.append(example)
            drawn.append(_drawn(example.gold, self._candidates, rng))
        passages, words, counts = self._fetched(
            [example.positions[places] for example, places in zip(examples, drawn, strict=True)]
        )
        gold = np.zeros(counts.shape, np.bool_)
        starts = np.zeros(passages.shape[:3], np.bool_)
        retrieval = np.zeros(counts.shape, np.float32)
        for row, (example, places) in enumerate(zip(examples, drawn, strict=True)):
            gold[row, : len(places)] = example.gold[places]
            retrieval[row, : len(places)] = example.retrieval[places]
            slots = {int(candidate): slot for slot, candidate in enumerate(places)}
            for candidate, start in standing[row].tolist():
                slot = slots.get(candidate)
                # The answer's end is no token of the passage: `answers` has one more than is looked for.
                if slot is not None and start + len(answers[row]) - 1 <= counts[row, slot]:
                    starts[row, slot, start] = True
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
            gold,
            starts,
            retrieval,
            words,
        )
        return Questions(
            *(None if array is None else array.reshape(*self._shape, *array.shape[1:]) for array in flat)  # type: ignore[arg-type]
        )

    def _fetched(
        self, positions: Sequence[npt.NDArray[np.int64]]
    ) -> tuple[npt.NDArray[np.uint8] | npt.NDArray[np.int32], npt.NDArray[np.int32] | None, npt.NDArray[np.int32]]:
        """Codes uint8 [N, m, L, code_bytes] or tokens int32 [N, m, L]; tokens again, if wanted; their number [N, m]."""
        distinct, places = np.unique(np.concatenate(positions), return_inverse=True)
        lengths = np.array([len(each) for each in positions])
        rows = np.repeat(np.arange(len(positions)), lengths)
        slots = np.concatenate([np.arange(length) for length in lengths])

        def spread(stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
            wide = np.zeros((len(positions), self._candidates, *stored.shape[1:]), stored.dtype)
            wide[rows, slots] = stored[places]
            return wide

        tokens: npt.NDArray[np.int32] | None = None
        if self._as_tokens or self._with_words:
            texts = self._memory.texts(distinct)
            each = [np.asarray(passage.tokens[: self._longest], np.int32) for passage in texts]
            tokens, held = _padded(each, self._passages, self._pad[0])
        if self._as_tokens:
            assert tokens is not None
            passages = spread(tokens)
        else:
            codes, held = self._memory.fetch(distinct)
            held = np.minimum(held, self._longest)
            passages = spread(codes[:, : _bucket(self._passages, int(held.max()))])
        words = spread(tokens) if self._with_words and tokens is not None else None
        return passages, words, spread(held)


def _drawn(gold: npt.NDArray[np.bool_], most: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Which of an example's candidates a batch takes: at most half of `most` (and one) gold, the others drawn."""
    if len(gold) <= most:
        return np.arange(len(gold))
    golden = np.flatnonzero(gold)[: max(1, most // 2)]
    others = rng.permutation(np.flatnonzero(~gold))[: most - len(golden)]
    return np.sort(np.concatenate([golden, others]))


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
