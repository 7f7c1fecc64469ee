"""Articles of a version by what becomes of their passages: those that lose some, get some, have nothing left.

Each question is a pass over the catalog's article ids; memory grows with the articles asked about, not with the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from ...storage.memory import Memory
from .row_numbers import Mask, RowNumbers


@dataclass(frozen=True, kw_only=True)
class ArticleCounts:
    """Articles of two versions: only in the newer, in both with other passages, only in the older, and the rest."""

    added: int
    changed: int
    removed: int
    kept: int


def count_articles(memory: Memory, dead: Mask, renewed: pa.Array) -> ArticleCounts:
    """Counts articles that come, change and go when `memory` loses the rows `dead` and articles `renewed` get new ones.

    Two passes over the catalog's article ids; memory grows with the articles that are touched, not with the others.
    """
    return ArticlesTouched.by(memory, dead, renewed).counts(memory)


@dataclass(frozen=True)
class ArticlesTouched:
    """Ids, each once, of articles that lose passages, get new ones (`renewed`), or have others that stay."""

    losing: pa.Array
    renewed: pa.Array
    surviving: pa.Array

    @classmethod
    def by(cls, memory: Memory, dead: Mask, renewed: pa.Array) -> ArticlesTouched:
        """What loses the rows `dead`; of the surviving only those that are in `losing` or `renewed`."""
        losing = articles_with(memory, dead)
        touched = pc.unique(pa.concat_arrays([losing, renewed]))
        surviving = articles_with(memory, ~dead, among=touched) if len(touched) else touched
        return cls(losing, renewed, surviving)

    @property
    def gone(self) -> pa.Array:
        """Articles of which nothing is left."""
        return without(self.losing, pc.unique(pa.concat_arrays([self.surviving, self.renewed])))

    def counts(self, memory: Memory) -> ArticleCounts:
        """How many of `memory`'s articles come, change, go and stay."""
        known = pc.unique(pa.concat_arrays([self.losing, self.surviving]))
        added, removed = len(without(self.renewed, known)), len(self.gone)
        changed = len(pc.unique(pa.concat_arrays([self.losing, self.renewed]))) - added - removed
        return ArticleCounts(added=added, changed=changed, removed=removed, kept=memory.articles - changed - removed)


def without(ids: pa.Array, others: pa.Array) -> pa.Array:
    """Those of `ids` that are not among `others`, in their order."""
    return ids.filter(pc.invert(pc.is_in(ids, value_set=others)))


def articles_with(memory: Memory, rows: Mask | None, among: pa.Array | None = None) -> pa.Array:
    """Ids, each once, of the articles that own a live row marked in `rows` (None: any); only of `among` where given."""
    numbers = RowNumbers(memory)
    found = [pa.array([], pa.string())]
    for batch in memory.passage_table(("article_id", "segment", "row")):
        articles = batch.column("article_id")
        if rows is not None:
            articles = articles.filter(pa.array(rows[numbers.of_batch(batch)]))
        if among is not None:
            articles = articles.filter(pc.is_in(articles, value_set=among))
        found.append(pc.unique(articles))
    return pc.unique(pa.concat_arrays(found))
