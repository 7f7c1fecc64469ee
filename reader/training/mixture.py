"""In what order examples are met: a mixture of tasks at given rates, a pure function of seed and place.

Draw number g belongs to a task by a cycle of a thousand draws that holds each task as often as its rate says, shuffled
anew every time; the task's n-th draw is the n-th of its examples in an order shuffled anew every epoch. Nothing is
remembered between draws, so a run resumed at any step meets what an uninterrupted one would, and every example of a
task is met once before any is met again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ... import UsageError

CYCLE = 1000
"""Draws after which every task has had its share exactly."""


class Draw(NamedTuple):
    """One draw: example `example` of task `task`, for the `epoch`-th time (all from 0)."""

    task: int
    example: int
    epoch: int


class Mixture:
    """Draws from tasks of `sizes` examples at `rates` (any positive scale; a task without examples gets none).

    Raises UsageError if nothing can be drawn, or there are more tasks than draws in a cycle.
    """

    def __init__(self, sizes: Sequence[int], rates: Sequence[float], seed: int) -> None:
        if any(rate <= 0 for rate in rates):
            raise UsageError("sampling rates of tasks must be above 0")
        if not any(sizes):
            raise UsageError("no task has an example left to train on")
        if len(sizes) > CYCLE:
            raise UsageError(f"a mixture holds at most {CYCLE} tasks, not {len(sizes)}")
        self._sizes, self._seed = tuple(sizes), seed
        self.shares = _shares([rate if size else 0.0 for size, rate in zip(sizes, rates, strict=True)])
        self._cycle = lru_cache(maxsize=4)(self._shuffled_cycle)
        self._order = lru_cache(maxsize=2 * len(sizes) + 2)(self._shuffled_epoch)

    def draw(self, number: int) -> Draw:
        """Draw `number`, from 0."""
        cycle, place = divmod(number, CYCLE)
        tasks = self._cycle(cycle)
        task = int(tasks[place])
        before = cycle * self.shares[task] + int((tasks[:place] == task).sum())
        epoch, within = divmod(before, self._sizes[task])
        return Draw(task, int(self._order(task, epoch)[within]), epoch)

    def _shuffled_cycle(self, cycle: int) -> npt.NDArray[np.int64]:
        tasks = np.repeat(np.arange(len(self.shares)), self.shares)
        return np.random.default_rng([self._seed, 0, cycle]).permutation(tasks)

    def _shuffled_epoch(self, task: int, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self._seed, 1, task, epoch]).permutation(self._sizes[task])


def _shares(rates: Sequence[float]) -> tuple[int, ...]:
    """Draws a cycle for each task: proportional, at least 1 where the rate is not 0, `CYCLE` in all."""
    wanted = np.array(rates, np.float64) * CYCLE / sum(rates)
    shares = np.where(wanted > 0, np.maximum(1, np.floor(wanted)), 0).astype(np.int64)
    while (missing := CYCLE - int(shares.sum())) != 0:
        # The task furthest from its due gains or loses a draw; ties go to the first, so the result is fixed.
        gap = wanted - shares if missing > 0 else np.where(shares > 1, shares - wanted, -np.inf)
        shares[int(np.argmax(gap))] += 1 if missing > 0 else -1
    return tuple(int(share) for share in shares)
