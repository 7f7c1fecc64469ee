"""Articles of one id in several ranges, found by sorting the hashes of ids: sixteen bytes an article, no text.

The first half of a digest sorts, the second confirms: two different ids are never taken for one (`corpus.idset`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Digests = npt.NDArray[np.uint64]
"""uint64 [n, 2]: the two halves of the digests of n ids."""


def digests(ids: pa.Array) -> tuple[Digests, npt.NDArray[np.bool_]]:
    """The digests in an array of halves, and bool [n] which of them are null."""
    values = ids.fill_null(0).to_numpy(zero_copy_only=False).reshape(-1, 2)
    unknown = np.zeros(len(values), np.bool_) if not ids.null_count else np.asarray(ids.is_null())[::2]
    return values, unknown


def later_ones(ids: Digests) -> npt.NDArray[np.int64]:
    """int64, ascending: the indices of digests that stand at a lower index too."""
    return _repeated(ids)[1]


def earlier_ones(ids: Digests) -> npt.NDArray[np.int64]:
    """int64, ascending: the indices of digests that stand at a higher index too."""
    return _repeated(ids)[0]


def _repeated(ids: Digests) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    order = np.argsort(ids[:, 0], kind="stable")
    first = ids[order, 0]
    same = first[1:] == first[:-1]
    # The second half is asked for among the few that share the first.
    beside = np.zeros(len(ids), np.bool_)
    beside[1:] = same
    beside[:-1] |= same
    few = order[beside]
    few = few[np.lexsort((few, ids[few, 1], ids[few, 0]))]
    equal = (ids[few[1:]] == ids[few[:-1]]).all(axis=1)
    return np.sort(few[:-1][equal]), np.sort(few[1:][equal])
