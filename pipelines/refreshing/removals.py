"""Which articles a refresh removes, which it keeps although the sources do not give them, and how many may go unasked.

An article goes when a whole corpus does not hold it, when a feed's last record of it has an empty text, or when a list
names it. It stays, as the base has it, where its record was there but could not be used. As long as a rejected record
may be any article's, no article goes for being absent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from ... import UsageError
from ...storage.memory import Memory
from .articles import ArticleCounts, ArticlesTouched, articles_with, without
from .changes import Changes
from .comparison import Comparison
from .row_numbers import RowNumbers

MAX_REMOVED: Final = 0.2
"""Share of the articles that a refresh removes without being asked."""


@dataclass(frozen=True, kw_only=True)
class Removals:
    """What becomes of articles that the sources do not give.

    Attributes:
        changes: rows that go and rows that move, the kept articles' not among them.
        articles: counts of articles that come, change, go and stay.
        unasked: ids of articles that go although no list names them.
        listed: ids of articles that go because a list names them.
        kept_rejected: ids of articles that stay as they are because their records were rejected.
        kept_absent: ids of articles that the sources do not hold and that stay because some rejected record may be
            theirs.
    """

    changes: Changes
    articles: ArticleCounts
    unasked: pa.Array
    listed: pa.Array
    kept_rejected: pa.Array
    kept_absent: pa.Array


def removals(comparison: Comparison, *, listed: pa.Array | None = None, remove_absent: bool) -> Removals:
    """Decides, once the plan has ended.

    Args:
        comparison: what the plan found.
        listed: ids of articles to drop (with a partial feed).
        remove_absent: articles that a whole corpus does not hold go, whatever records were rejected.
    """
    memory = comparison.memory
    listed = pa.array([], pa.string()) if listed is None else listed
    asked = pa.concat_arrays([listed, comparison.emptied])
    changes = comparison.changes(asked)
    touched = ArticlesTouched.by(memory, changes.dead, comparison.renewed)
    gone = touched.gone
    nothing = gone.slice(0, 0)
    if comparison.partial:
        spared = without(without(comparison.rejected, comparison.met), asked)
        kept_rejected = articles_with(memory, None, among=spared) if len(spared) else nothing
        kept_absent = nothing
    else:
        unsure = comparison.unidentified > 0 and not remove_absent
        kept_rejected = gone.filter(pc.is_in(gone, value_set=comparison.rejected))
        kept_absent = without(gone, kept_rejected) if unsure else nothing
        kept = pa.concat_arrays([kept_rejected, kept_absent])
        changes = _spared(memory, changes, kept)
        touched = replace(touched, losing=without(touched.losing, kept))
        gone = without(gone, kept)
    by_list = gone.filter(pc.is_in(gone, value_set=listed))
    return Removals(
        changes=changes,
        articles=touched.counts(memory),
        unasked=without(gone, by_list),
        listed=by_list,
        kept_rejected=kept_rejected,
        kept_absent=kept_absent,
    )


def check_limit(limit: float | int) -> None:
    """Raises UsageError unless `limit` is a number of articles (int) or a share of them (float, 0 to 1)."""
    whole = isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0
    if not (whole or (isinstance(limit, float) and 0 <= limit <= 1)):
        raise UsageError(f"max_removed is a number of articles, or a share from 0.0 to 1.0; not {limit!r}")


def exceeds(removed: int, articles: int, limit: float | int) -> bool:
    """Whether `removed` of `articles` is more than `limit`, a number (int) or a share (float) of them."""
    return removed > limit if isinstance(limit, int) else removed > limit * articles + 1e-9


def shown_limit(limit: float | int) -> str:
    """A limit as people write it: `20 %` or `5`."""
    return f"{limit:,}" if isinstance(limit, int) else f"{100 * limit:.3g} %"


def _spared(memory: Memory, changes: Changes, articles: pa.Array) -> Changes:
    """`changes` without the death of the rows of `articles`."""
    if not len(articles):
        return changes
    dead, numbers = changes.dead.copy(), RowNumbers(memory)
    for batch in memory.passage_table(("article_id", "segment", "row")):
        dead[numbers.of_batch(batch.filter(pc.is_in(batch.column("article_id"), value_set=articles)))] = False
    return replace(changes, dead=dead)
