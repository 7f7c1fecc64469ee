"""The set of article ids already seen, in sixteen bytes an id.

A corpus has tens of millions of ids; a Python set of strings would take gigabytes. Here an id is a hash of 128 bits, as
a passage id is, whose first half is searched for and whose second half confirms what is found: two different ids are
never taken for one. Recent ids are in a small dictionary, older ones in sorted arrays that are merged pairwise as they
grow, so there are only a few of them.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_left

import numpy as np
import numpy.typing as npt

_RECENT = 1 << 17
_HALVES = struct.Struct("<QQ")


def id_digest(identifier: str) -> tuple[int, int]:
    """The two halves, 64 bits each, of an id's BLAKE2b hash."""
    first, second = _HALVES.unpack(hashlib.blake2b(identifier.encode(), digest_size=16).digest())
    return first, second


class IdSet:
    """Digests of ids seen so far. `recent` is how many are kept apart before they are sorted into an array."""

    def __init__(self, recent: int = _RECENT) -> None:
        self._limit = recent
        self._recent: dict[int, int] = {}
        self._runs: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]] = []
        self._views: list[tuple[memoryview, memoryview]] = []
        self._colliding: set[tuple[int, int]] = set()
        """Digests whose first half another one has as well."""

    def __len__(self) -> int:
        return len(self._recent) + sum(len(first) for first, _ in self._runs) + len(self._colliding)

    @property
    def nbytes(self) -> int:
        """Bytes held by the sorted arrays."""
        return sum(first.nbytes + second.nbytes for first, second in self._runs)

    def add(self, digest: tuple[int, int]) -> bool:
        """Adds the digest of an id; False when it was there already."""
        first, second = digest
        found = self._recent.get(first)
        if found is None:
            for firsts, seconds in self._views:
                at = bisect_left(firsts, first)
                if at < len(firsts) and firsts[at] == first:
                    found = seconds[at]
                    break
        if found is None:
            self._recent[first] = second
            if len(self._recent) >= self._limit:
                self._settle()
            return True
        if found == second or digest in self._colliding:
            return False
        self._colliding.add(digest)
        return True

    def _settle(self) -> None:
        count = len(self._recent)
        run = (np.fromiter(self._recent, np.uint64, count), np.fromiter(self._recent.values(), np.uint64, count))
        self._recent.clear()
        while self._runs and len(self._runs[-1][0]) <= len(run[0]):
            before = self._runs.pop()
            run = (np.concatenate([before[0], run[0]]), np.concatenate([before[1], run[1]]))
        order = np.argsort(run[0], kind="stable")
        self._runs.append((run[0][order], run[1][order]))
        self._views = [(first.data, second.data) for first, second in self._runs]
