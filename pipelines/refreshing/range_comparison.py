"""A range of the sources compared with a version while it is planned: passages that it has, that it lacks, that moved.

What is found goes into the range's part as arrays; `Comparison` puts those of all ranges together.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.memory import Memory
from ...storage.stores import Place
from ..corpus import Article, Rejection
from ..corpus.idset import id_digest
from ..corpus.passages import PassageDraft

EXAMPLES = 5
"""Passages and article ids that a result names as examples."""

_BLOCK = 1 << 16


class BaseArticles:
    """The articles of a version, by the hashes of their ids; made when the first is asked for, which is rare."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def __contains__(self, article_id: str) -> bool:
        first, second = id_digest(article_id)
        firsts, seconds = self._digests
        low, high = np.searchsorted(firsts, np.uint64(first)), np.searchsorted(firsts, np.uint64(first), side="right")
        return bool((seconds[low:high] == second).any())

    @functools.cached_property
    def _digests(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        found = [np.zeros((0, 2), np.uint64)]
        for batch in self._memory.passage_table(("article_id",)):
            names = pc.unique(batch.column("article_id")).to_pylist()
            found.append(np.array([id_digest(name) for name in names], np.uint64).reshape(-1, 2))
        digests = np.concatenate(found)
        digests = digests[np.argsort(digests[:, 0], kind="stable")]
        return digests[:, 0], digests[:, 1]


@dataclass(frozen=True)
class ComparesRanges:
    """Makes the comparison of each range with one version; `partial` if the sources are a feed of changes."""

    memory: Memory
    articles: BaseArticles
    partial: bool

    @classmethod
    def open(cls, place: Place, version: int, partial: bool) -> ComparesRanges:
        """Opens the version, in the process that plans."""
        return cls.of(Memory.open(place, version, check=False), partial)

    @classmethod
    def of(cls, memory: Memory, partial: bool) -> ComparesRanges:
        """With a version that is open."""
        return cls(memory, BaseArticles(memory), partial)

    def __call__(self) -> RangeComparison:
        return RangeComparison(self.memory, self.articles, partial=self.partial)


class RangeComparison:
    """Follows the plan of a range (it is the plan's `Base`) and finds what its sources change in `memory`.

    Its arrays: `kept`, positions of passages that range and base both hold, int64; `moved` and `places`, those of them
    that stand elsewhere now, int64, and where, int32, four a passage; `renewed`, ids of articles that have a passage
    which the base lacks; `met`, with `partial`, ids of all articles of the range; `rejected`, ids of articles that have
    a record, or a part of one, that cannot be used; `examples`, article id, title and text of the first passages that
    the base lacks; `numbers`, tokens of the kept passages, and rejected records whose article cannot be told.
    """

    def __init__(self, memory: Memory, articles: BaseArticles, *, partial: bool) -> None:
        self._memory, self._articles, self._partial = memory, articles, partial
        self._kept_tokens = self._unidentified = 0
        self._kept: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self._moved: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self._places: list[npt.NDArray[np.int32]] = [np.zeros((0, 4), np.int32)]
        self._renewed, self._met, self._rejected = _Ids(), _Ids(), _Ids()
        self._spared: set[str] = set()
        self._examples: list[str] = []

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        return self._memory.locate(ids, missing="skip")

    def meet(self, article: Article) -> None:
        if self._partial:
            self._met.add(article.article_id)

    def reject(self, rejection: Rejection) -> None:
        if rejection.reason == "duplicate_id":
            return  # the article was met before
        if rejection.article_id:
            self._rejected.add(rejection.article_id)
        else:
            self._unidentified += 1

    def spare(self, article: Article) -> bool:
        held = article.article_id in self._articles
        if held:
            self._rejected.add(article.article_id)
            self._spared.add(article.article_id)
        return held

    def keep(self, positions: npt.NDArray[np.int64], provenance: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        self._kept.append(positions)
        elsewhere = (self._memory.provenance(positions) != provenance).any(axis=1)
        if elsewhere.any():
            self._moved.append(positions[elsewhere])
            self._places.append(provenance[elsewhere])
        counts = self._memory.token_counts(positions)
        self._kept_tokens += int(counts.sum())
        return counts

    def add(self, draft: PassageDraft) -> None:
        self._renewed.add(draft.article.article_id)
        if len(self._examples) < 3 * EXAMPLES:
            self._examples += [draft.article.article_id, draft.article.title, draft.text]

    def arrays(self) -> dict[str, pa.Array]:
        met = self._met.array()
        if self._spared:
            met = met.filter(pc.invert(pc.is_in(met, value_set=pa.array(sorted(self._spared), pa.string()))))
        return {
            "kept": pa.array(np.concatenate(self._kept)),
            "moved": pa.array(np.concatenate(self._moved)),
            "places": pa.array(np.concatenate(self._places).reshape(-1)),
            "renewed": self._renewed.array(),
            "met": met,
            "rejected": self._rejected.array(),
            "examples": pa.array(self._examples, pa.string()),
            "numbers": pa.array([self._kept_tokens, self._unidentified], pa.int64()),
        }


class _Ids:
    """Ids of articles in the order in which they come; an id that repeats the one before is taken once."""

    def __init__(self) -> None:
        self._blocks: list[pa.Array] = []
        self._last: list[str] = []

    def add(self, article_id: str) -> None:
        if self._last and self._last[-1] == article_id:
            return
        self._last.append(article_id)
        if len(self._last) >= _BLOCK:
            self._blocks.append(pa.array(self._last[:-1], pa.string()))
            del self._last[:-1]

    def array(self) -> pa.Array:
        return pc.unique(pa.concat_arrays([*self._blocks, pa.array(self._last, pa.string())]))
