"""Planning a refresh: sources compared with the base version, changes counted, too many removals refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa

from ... import InputError
from ...progress import Progress
from ..corpus.plan import PlanSummary, TextWriter, no_article
from ..encoding.plan_stage import plan_corpus
from .articles import articles_with
from .comparison import Comparison
from .counts import Compared, RefreshCounts
from .feed import Feed
from .refresh_inputs import RefreshInputs
from .removals import Removals, exceeds, removals, shown_limit

EXAMPLES: Final = 5
"""Passages and article ids that a result names as examples."""


def compare(
    inputs: RefreshInputs, progress: Progress, *, writer: TextWriter | None = None, rejects: Path | None = None
) -> Compared:
    """Plans the sources against the base version and works out what changes; new passages go to `writer`.

    Raises InputError for sources that cannot be used, or that hold an article which is to be deleted.
    """
    comparison = Comparison(inputs.base, partial=inputs.partial, examples=EXAMPLES)
    feed = Feed(inputs.corpus) if inputs.partial else None
    listed = set() if inputs.deleted is None else inputs.deleted.ids()
    summary = plan_corpus(
        inputs.corpus,
        records=feed,
        model=inputs.encoding.model,
        settings=inputs.base.identity.passages,
        writer=writer,
        base=comparison,
        strict=inputs.strict,
        may_be_empty=inputs.partial,
        rejects=rejects,
        progress=progress,
    )
    if both := sorted(listed & comparison.met):
        more = f" (and {len(both) - 1} more)" if len(both) > 1 else ""
        raise InputError(
            f"article {both[0]!r} is to be deleted and is in the sources too{more}",
            where=inputs.deleted.name if inputs.deleted else None,
            remedy="take it out of one of them",
        )
    emptied = set() if feed is None else feed.emptied
    if not summary.passages and summary.rejected and not (listed or emptied):
        raise no_article(inputs.sources, summary.rejected, rejects)
    fate = removals(comparison, listed=listed, emptied=emptied, remove_absent=inputs.remove_absent)
    return Compared(
        comparison=comparison,
        plan=summary,
        changes=fate.changes,
        counts=_counts(inputs, comparison, fate, summary, listed | emptied, 0 if feed is None else feed.superseded),
        kept_rejected=_examples(fate.kept_rejected),
        kept_absent=_examples(fate.kept_absent),
        removed=_examples(fate.unasked),
    )


def refusal(inputs: RefreshInputs, counts: RefreshCounts, examples: Sequence[str]) -> str | None:
    """Why the refresh is refused: it removes more articles than may go unasked. None if it does not.

    `examples` are ids of some that would go. Articles of the deletion list are asked for.
    """
    unasked, articles = counts.articles_removed - counts.articles_removed_listed, inputs.base.articles
    if not exceeds(unasked, articles, inputs.max_removed):
        return None
    why = "whose text is empty in the feed" if inputs.partial else "which the sources do not hold"
    more = " …" if unasked > len(examples) else ""
    return (
        f"{inputs.base.location}: {unasked:,} of {articles:,} articles ({100 * unasked / articles:.3g} %), {why}, "
        f"would be removed ({', '.join(examples)}{more}), more than {shown_limit(inputs.max_removed)}, so nothing was "
        f"changed; if they are to go, run it again with --max-removed {unasked}"
    )


def _counts(
    inputs: RefreshInputs,
    comparison: Comparison,
    fate: Removals,
    summary: PlanSummary,
    deleted: set[str],
    superseded: int,
) -> RefreshCounts:
    base = inputs.base
    known = articles_with(base, None, among=pa.array(sorted(deleted), pa.string())) if deleted else ()
    return RefreshCounts(
        passages_added=comparison.added,
        passages_removed=fate.changes.removed,
        passages_kept=base.passages - fate.changes.removed,
        passages_moved=len(fate.changes.moved),
        tokens_added=summary.tokens - comparison.kept_tokens,
        articles_added=fate.articles.added,
        articles_changed=fate.articles.changed,
        articles_removed=fate.articles.removed,
        articles_removed_listed=len(fate.listed),
        articles_removed_empty=len(fate.unasked) if inputs.partial else 0,
        articles_kept=fate.articles.kept,
        articles_kept_rejected=len(fate.kept_rejected),
        articles_kept_absent=len(fate.kept_absent),
        deleted_unknown=len(deleted) - len(known),
        records_unidentified=comparison.unidentified,
        records_superseded=superseded,
    )


def _examples(ids: pa.Array) -> list[str]:
    """The first few of `ids`, in the order of the payload."""
    found: list[str] = ids.slice(0, EXAMPLES).to_pylist()
    return found
