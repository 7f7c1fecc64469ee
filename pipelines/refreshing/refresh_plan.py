"""Planning a refresh: sources compared with the base version, changes counted, too many removals refused."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ... import InputError
from ...progress import Progress
from ..engines.seen_by_workers import memory_for_workers
from ..planning.plan_stage import PlanBase, PlanPlace, plan_corpus
from ..planning.plan_summary import PlanSummary, no_article
from .articles import articles_with
from .comparison import Comparison
from .counts import Compared, RefreshCounts
from .range_comparison import EXAMPLES, ComparesRanges
from .refresh_inputs import RefreshInputs
from .removals import Removals, exceeds, removals, shown_limit


def compare(
    inputs: RefreshInputs, progress: Progress, *, place: PlanPlace | None = None, rejects: Path | None = None
) -> Compared:
    """Plans the sources against the base version and works out what changes; parts go to `place`, None for a dry run.

    Raises InputError for sources that cannot be used, or that hold an article which is to be deleted.
    """
    base = inputs.base
    comparison = Comparison(base, partial=inputs.partial)
    listed = pa.array(sorted(inputs.deleted.ids()) if inputs.deleted is not None else [], pa.string())
    where = str(base.location) if place is None else memory_for_workers(base.store, place.engine)
    planned = plan_corpus(
        inputs.corpus,
        model=inputs.encoding.model,
        passages=base.identity.passages,
        strict=inputs.strict,
        progress=progress,
        place=place,
        base=PlanBase(
            here=ComparesRanges.of(base, inputs.partial),
            elsewhere=functools.partial(ComparesRanges.open, where, base.version, inputs.partial),
            take=lambda found: comparison.take(found.arrays, found.counts.rows),
        ),
        feed=inputs.partial,
        may_be_empty=inputs.partial,
        rejects=rejects,
    )
    summary = planned.summary
    if both := listed.filter(pc.is_in(listed, value_set=comparison.met)).to_pylist():
        more = f" (and {len(both) - 1} more)" if len(both) > 1 else ""
        raise InputError(
            f"article {both[0]!r} is to be deleted and is in the sources too{more}",
            where=inputs.deleted.name if inputs.deleted else None,
            remedy="take it out of one of them",
        )
    asked = pc.unique(pa.concat_arrays([listed, comparison.emptied]))
    if not summary.passages and summary.rejected and not len(asked):
        raise no_article(inputs.sources, summary.rejected, rejects)
    fate = removals(comparison, listed=listed, remove_absent=inputs.remove_absent)
    return Compared(
        comparison=comparison,
        plan=summary,
        text=planned.text,
        changes=fate.changes,
        counts=_counts(inputs, comparison, fate, summary, asked, planned.superseded),
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
    deleted: pa.Array,
    superseded: int,
) -> RefreshCounts:
    base = inputs.base
    known = articles_with(base, None, among=deleted) if len(deleted) else ()
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
