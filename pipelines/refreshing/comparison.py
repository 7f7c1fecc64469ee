"""Comparing sources with a version while they are planned: passages that it has, that it lacks, that moved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.memory import Memory
from ..corpus import Article, Rejection
from ..corpus.passages import PassageDraft
from .changes import Changes
from .feed import id_hash
from .row_numbers import RowNumbers


class Comparison:
    """Follows a plan (it is the plan's `Base`) and finds what its sources change in `memory`.

    With `partial`, passages of articles that the sources do not hold stay. Holds a byte a passage, twenty bytes for
    each passage that moved, and the ids of articles that have something new or whose record was rejected (with
    `partial`, of all articles met).
    """

    def __init__(self, memory: Memory, *, partial: bool = False, examples: int = 5) -> None:
        self.memory = memory
        self.partial = partial
        self.kept_tokens = 0
        """Tokens of the passages that the sources and the base both hold."""
        self.added = 0
        """Passages that the base lacks."""
        self.renewed: set[str] = set()
        """Ids of articles that have a passage which the base lacks."""
        self.met: set[str] = set()
        """Ids of all articles of the sources; filled with `partial` only."""
        self.rejected: set[str] = set()
        """Ids of articles that have a record, or a part of one, that cannot be used."""
        self.unidentified = 0
        """Rejected records whose article cannot be told."""
        self.added_examples: list[tuple[str, str, str]] = []
        """(article id, title, text) of the first passages that the base lacks."""
        self._examples = examples
        self._seen = np.zeros(memory.passages, np.bool_)
        self._moved: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self._places: list[npt.NDArray[np.int32]] = [np.zeros((0, 4), np.int32)]

    # What the plan calls.

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        return self.memory.locate(ids, missing="skip")

    def meet(self, article: Article) -> None:
        if self.partial:
            self.met.add(article.article_id)

    def reject(self, rejection: Rejection) -> None:
        if rejection.reason == "duplicate_id":
            return  # the article was met before
        if rejection.article_id:
            self.rejected.add(rejection.article_id)
        else:
            self.unidentified += 1

    def spare(self, article: Article) -> bool:
        held = id_hash(article.article_id) in self._article_hashes
        if held:
            self.rejected.add(article.article_id)
            self.met.discard(article.article_id)
        return held

    @cached_property
    def _article_hashes(self) -> frozenset[int]:
        """Made when the first article is asked for, which is rare."""
        batches = self.memory.passage_table(("article_id",))
        return frozenset(
            id_hash(name) for batch in batches for name in pc.unique(batch.column("article_id")).to_pylist()
        )

    def keep(self, positions: npt.NDArray[np.int64], provenance: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        self._seen[positions] = True
        elsewhere = (self.memory.provenance(positions) != provenance).any(axis=1)
        if elsewhere.any():
            self._moved.append(positions[elsewhere])
            self._places.append(provenance[elsewhere])
        counts = self.memory.token_counts(positions)
        self.kept_tokens += int(counts.sum())
        return counts

    def add(self, draft: PassageDraft) -> None:
        self.added += 1
        self.renewed.add(draft.article.article_id)
        if len(self.added_examples) < self._examples:
            self.added_examples.append((draft.article.article_id, draft.article.title, draft.text))

    # What comes of it.

    def changes(self, deleted: Iterable[str] = ()) -> Changes:
        """The changes, once the plan has ended; `deleted` are ids of articles to drop besides (with `partial`)."""
        numbers = RowNumbers(self.memory)
        if self.partial:
            seen = numbers.marked(self._seen)
            gone = pa.array(sorted(self.met.union(deleted)), pa.string())
            dead = np.zeros(numbers.count, np.bool_)
            for batch in self.memory.passage_table(("article_id", "segment", "row")):
                dead[numbers.of_batch(batch.filter(pc.is_in(batch.column("article_id"), value_set=gone)))] = True
            dead &= ~seen
        else:
            dead = numbers.marked(self._seen, False)
        moved = numbers.of_positions(np.concatenate(self._moved))
        order = np.argsort(moved)
        return Changes(dead, moved[order], np.concatenate(self._places)[order])
