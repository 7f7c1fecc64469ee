"""What a refresh changes, in numbers and examples."""

from __future__ import annotations

from dataclasses import dataclass

from ..planning.plan_summary import PlanSummary
from ..planning.planned_text import PartRows
from .changes import Changes
from .comparison import Comparison


@dataclass(frozen=True, kw_only=True)
class RefreshCounts:
    """What a refresh changes.

    Attributes:
        passages_added, passages_removed: passages that are new, and that are gone.
        passages_kept: passages whose row and codes stay; `passages_moved` of them stand at other paragraph ids or
            characters now, and get a new catalog row.
        tokens_added: tokens of the passages that are new: what has to be encoded.
        articles_added, articles_changed, articles_removed, articles_kept: articles that are new, that have other
            passages, that are gone, and all others (their paragraph ids may have moved).
        articles_removed_listed, articles_removed_empty: of the removed, those that the deletion list names, and those
            whose text a partial feed empties; the others are absent from a whole corpus.
        articles_kept_rejected: of the kept, those that stay as they are because their new records were rejected.
        articles_kept_absent: of the kept, those that the sources do not hold, and that stay because a rejected record
            does not tell whose it is.
        deleted_unknown: ids to delete, by the list or by an empty text, that the memory does not have.
        records_unidentified: rejected records that do not tell whose they are.
        records_superseded: records of a partial feed that a later record of the same article made void.
    """

    passages_added: int
    passages_removed: int
    passages_kept: int
    passages_moved: int
    tokens_added: int
    articles_added: int
    articles_changed: int
    articles_removed: int
    articles_kept: int
    deleted_unknown: int
    articles_removed_listed: int = 0
    articles_removed_empty: int = 0
    articles_kept_rejected: int = 0
    articles_kept_absent: int = 0
    records_unidentified: int = 0
    records_superseded: int = 0

    @property
    def nothing(self) -> bool:
        """Whether the memory is up to date already."""
        return not (self.passages_added or self.passages_removed or self.passages_moved)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What comparing sources with a memory gave.

    Attributes:
        comparison, plan, changes, counts: the comparison, counts of the sources, and what changes.
        text: where the new passages are.
        kept_rejected, kept_absent: ids of the first articles that stay for the reasons `RefreshCounts` gives.
        removed: ids of the first articles that go although no deletion list names them.
    """

    comparison: Comparison
    plan: PlanSummary
    text: PartRows
    changes: Changes
    counts: RefreshCounts
    kept_rejected: list[str]
    kept_absent: list[str]
    removed: list[str]
