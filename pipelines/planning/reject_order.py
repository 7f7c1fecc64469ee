"""The order of rejected records in their file: the one in which a single stream over all ranges meets them.

A record that is no article is rejected when it is read; a passage that cannot be made to fit, when the batch of its
article has been tokenised, which is two batches later. A batch ends with the article that fills it, counted from the
beginning of the sources. So that the file is the same however the sources are cut into ranges, each rejection carries
the number of articles that its range had cut before it (the number of its own article for a passage, which is `late`),
and each range how many drafts every article gave.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ..corpus.fitting import BATCH
from ..corpus.rejects import Rejection
from .range_plan import AHEAD

Numbered = tuple[int, Rejection]
"""A rejection and its number of articles."""

_READ, _FITTED, _END = range(3)  # what comes first, of what stands at one article


class RejectOrder:
    """Puts the rejections of ranges, taken one after another, in the order of a single stream."""

    def __init__(self) -> None:
        self._drafts = 0  # in the batch that is being filled
        self._batch: list[Rejection] = []
        self._waiting: deque[list[Rejection]] = deque()

    def take(
        self, drafts: npt.NDArray[np.integer], records: Iterable[Numbered], passages: Iterable[Numbered]
    ) -> Iterator[Rejection]:
        """The rejections that come next, of the next range.

        Args:
            drafts: drafts of each of its articles.
            records, passages: its rejections, each kind in its order.
        """
        events = heapq.merge(
            ((number, _READ, rejection) for number, rejection in records),
            ((number, _FITTED, rejection) for number, rejection in passages),
            ((number, _END, None) for number in self._batch_ends(drafts)),
            key=lambda event: event[:2],
        )
        for _, kind, rejection in events:
            if rejection is None:
                yield from self._end_batch()
            elif kind == _READ:
                yield rejection
            else:
                self._batch.append(rejection)

    def finish(self) -> Iterator[Rejection]:
        """Those that are left, once all ranges were taken."""
        for batch in (*self._waiting, self._batch):
            yield from batch

    def _end_batch(self) -> list[Rejection]:
        self._waiting.append(self._batch)
        self._batch = []
        return self._waiting.popleft() if len(self._waiting) > AHEAD else []

    def _batch_ends(self, drafts: npt.NDArray[np.integer]) -> list[int]:
        """Numbers of the articles that fill a batch."""
        total = np.cumsum(drafts, dtype=np.int64)
        ends: list[int] = []
        begun = -self._drafts
        while (end := int(np.searchsorted(total, begun + BATCH))) < len(total):
            ends.append(end)
            begun = int(total[end])
        self._drafts = int(total[-1]) - begun if len(total) else self._drafts
        return ends
