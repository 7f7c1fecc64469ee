"""Row numbers of a version: its segments, in the order of their ids, one after another, dead rows included.

One bit a row says which rows are meant, so that 22 million passages take under three megabytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ...storage.idmap import segment_bases
from ...storage.memory import Memory

_SPAN: Final = 1 << 20  # positions handled at once

Mask = npt.NDArray[np.bool_]


class RowNumbers:
    """Numbers the rows of all segments of one version, 0 … `count` - 1, live or not."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._bases = segment_bases({name: entry.rows for name, entry in memory.segments.items()})
        self._firsts = np.array([first for first, _ in self._bases.values()], np.int64)
        self.count = sum(rows for _, rows in self._bases.values())

    def of_positions(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64 [n]: row number of the passage at each position."""
        segment, row = self._memory.rows(positions)
        return self._firsts[segment] + row if len(positions) else np.zeros(0, np.int64)

    def of_batch(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        """int64 [n]: row number of each catalog row, from its columns `segment` and `row`."""
        segment = batch.column("segment").dictionary_encode()
        firsts = np.array([self._bases[name][0] for name in segment.dictionary.to_pylist()], np.int64)
        row: npt.NDArray[np.int64] = batch.column("row").to_numpy().astype(np.int64)
        return firsts[segment.indices.to_numpy()] + row if len(row) else row

    def marked(self, positions: Mask, value: bool = True) -> Mask:
        """bool [count]: the rows of those passages whose entry in `positions`, bool [passages], is `value`."""
        rows = np.zeros(self.count, np.bool_)
        for start in range(0, len(positions), _SPAN):
            some = start + np.flatnonzero(positions[start : start + _SPAN] == value)
            rows[self.of_positions(some)] = True
        return rows


def first_positions(memory: Memory, rows: Mask, most: int) -> npt.NDArray[np.int64]:
    """int64 [at most `most`]: the first positions whose row is marked in `rows`."""
    numbers = RowNumbers(memory)
    found = np.zeros(0, np.int64)
    for start in range(0, memory.passages, _SPAN):
        span = np.arange(start, min(start + _SPAN, memory.passages))
        found = np.concatenate([found, span[rows[numbers.of_positions(span)]]])[:most]
        if len(found) == most:
            break
    return found
