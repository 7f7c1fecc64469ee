"""The set of article ids already seen, in eight bytes an id.

A corpus has tens of millions of ids; a Python set of strings would take gigabytes. Here an id is a 64-bit hash:
recent ones in a small set, older ones in sorted arrays that are merged pairwise as they grow, so there are only a few
of them. Two different ids share a hash with a probability near n²/2⁶⁵: one in 75,000 for a corpus of 22 million.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left

import numpy as np
import numpy.typing as npt

_RECENT = 1 << 17


class IdSet:
    """Strings seen so far, by hash. `recent` is how many are kept apart before they are sorted into an array."""

    def __init__(self, recent: int = _RECENT) -> None:
        self._limit = recent
        self._recent: set[int] = set()
        self._runs: list[npt.NDArray[np.uint64]] = []
        self._views: list[memoryview] = []

    def __len__(self) -> int:
        return len(self._recent) + sum(len(r) for r in self._runs)

    @property
    def nbytes(self) -> int:
        """Bytes held by the sorted arrays."""
        return sum(r.nbytes for r in self._runs)

    def add(self, identifier: str) -> bool:
        """Add an id; False when it was there already."""
        key = int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "little")
        if key in self._recent:
            return False
        for view in self._views:
            at = bisect_left(view, key)
            if at < len(view) and view[at] == key:
                return False
        self._recent.add(key)
        if len(self._recent) >= self._limit:
            self._settle()
        return True

    def _settle(self) -> None:
        run = np.fromiter(self._recent, np.uint64, len(self._recent))
        run.sort()
        self._recent.clear()
        while self._runs and len(self._runs[-1]) <= len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")
        self._runs.append(run)
        self._views = [r.data for r in self._runs]
