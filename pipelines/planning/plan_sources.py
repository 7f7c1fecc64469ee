"""Planning all of a corpus: its ranges planned, then what they say merged as if one stream had read them.

    ranges      each planned by itself
    duplicates  articles that several ranges hold, found by the hashes of their ids; the ranges that hold a later one
                are planned again without it
    merge       prefix sums over the parts: first rows, line numbers; counts; one file of rejected records

The driver holds sixteen bytes an article and a few numbers a range, never text.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..corpus import Corpus
from ..corpus.ranges import SourceRange
from ..corpus.rejects import Rejection, RejectLog
from .article_ids import Digests, digests, earlier_ones, later_ones
from .plan_step import Part, Planner, RangeTask, Report
from .plan_summary import PlanCounts, PlanSummary, no_article
from .planned_text import PartRows
from .range_plan import RangePlan
from .record_selection import SelectionSpec
from .reject_order import Numbered, RejectOrder


@dataclass(frozen=True, kw_only=True)
class PlannedSources:
    """A plan.

    Attributes:
        summary: what it counts.
        text: where its passages are.
        superseded: records of a feed that a later record of the same article made void.
    """

    summary: PlanSummary
    text: PartRows
    superseded: int


def plan_sources(
    corpus: Corpus,
    ranges: Sequence[SourceRange],
    planner: Planner,
    *,
    feed: bool = False,
    may_be_empty: bool = False,
    rejects_path: str | os.PathLike[str] | None = None,
    take: Callable[[RangePlan], None] | None = None,
    report: Report = lambda share, passages: None,
) -> PlannedSources:
    """Plans `corpus` and merges its parts.

    Args:
        corpus: articles keep its order, and so do rows.
        ranges: the corpus, cut into ranges.
        planner: plans ranges.
        feed: the last record of an article decides, not the first; see `DecidingRecords`.
        may_be_empty: accept sources without a usable article, or no sources at all.
        rejects_path: JSON-lines file for records set aside; None counts them only.
        take: given what each range gave, in their order.
        report: told how far planning is.

    Raises InputError for sources that cannot be read, have no usable article at all, or, in a strict plan, one record
    that cannot be used; StorageError where files cannot be written.
    """
    begun = time.monotonic()
    names = [os.fspath(source) for source in corpus.sources]
    tasks = feed_tasks(ranges, names, planner, report) if feed else _tasks(ranges, planner, report)
    merged = PlanCounts.of_window(planner.settings.window)
    rows: list[int] = []
    with RejectLog(rejects_path, strict=planner.settings.strict) as rejects:
        order, line = RejectOrder(), 0
        for task in tasks:
            part = planner.part(task)
            if part is None:
                break
            line = 0 if task.source.begins_file else line
            for rejection in order.take(_drafts(part), *(_placed(part, line, late) for late in (False, True))):
                rejects.add(rejection)
            if not part.plan.complete:
                break
            line += part.plan.counts.lines
            merged.add(part.plan.counts)
            rows.append(part.plan.counts.rows)
            if take is not None:
                take(part.plan)
        for rejection in order.finish():
            rejects.add(rejection)
    corpus.left_out.clear()
    corpus.left_out.update(merged.left_out)
    report(1.0, merged.passages)
    if not merged.passages and not may_be_empty:
        raise no_article(corpus.sources, merged.rejected, rejects.path)
    return PlannedSources(
        summary=merged.summary(time.monotonic() - begun),
        text=PartRows(planner.prefix, tuple(task.name for task in tasks), tuple(rows)),
        superseded=merged.superseded,
    )


def _tasks(ranges: Sequence[SourceRange], planner: Planner, report: Report) -> list[RangeTask]:
    """Plans the ranges so that the first article of each id counts; the tasks whose parts are the plan."""
    tasks = [RangeTask(number, source) for number, source in enumerate(ranges)]
    planner.run(tasks, report)
    parts = [part.plan.arrays["ids"] for task in tasks if (part := planner.part(task)) is not None]
    ids, firsts = _joined(parts)
    replaced = []
    for number, held_before in _by_range(later_ones(ids), firsts):
        replaced.append(tasks[number])
        tasks[number] = replace(tasks[number], selection=SelectionSpec(tuple(held_before.tolist())))
    planner.run([tasks[task.number] for task in replaced], lambda share, passages: None)
    for task in replaced:
        planner.forget_text(task)
    return tasks


def feed_tasks(
    ranges: Sequence[SourceRange], sources: Sequence[str], planner: Planner, report: Report
) -> list[RangeTask]:
    """Lists the ids of all records, then plans the ranges so that the last record of each id counts.

    `sources` are named in messages. Returns the tasks whose parts are the plan.
    """
    listing = [RangeTask(number, source, ids_only=True) for number, source in enumerate(ranges)]
    planner.run(listing, lambda share, passages: report(share / 2, passages))
    ids, firsts, unknown = _joined_with_unknown([planner.ids(task) for task in listing])
    known = np.flatnonzero(~unknown)
    decides = np.ones(len(ids), np.bool_)
    decides[known[earlier_ones(ids[known])]] = False
    tasks = [
        RangeTask(number, source, SelectionSpec.deciding(decides[firsts[number] : firsts[number + 1]], sources))
        for number, source in enumerate(ranges)
    ]
    planner.run(tasks, lambda share, passages: report(0.5 + share / 2, passages))
    return tasks


def _joined(parts: Sequence[pa.Array]) -> tuple[Digests, npt.NDArray[np.int64]]:
    ids, firsts, _ = _joined_with_unknown(parts)
    return ids, firsts


def _joined_with_unknown(parts: Sequence[pa.Array]) -> tuple[Digests, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The digests of all ranges, where each range's begin (int64 [ranges + 1]), and which are unknown."""
    found = [digests(part) for part in parts]
    firsts = np.cumsum([0, *(len(ids) for ids, _ in found)])
    ids = np.concatenate([np.zeros((0, 2), np.uint64), *(ids for ids, _ in found)])
    return ids, firsts, np.concatenate([np.zeros(0, np.bool_), *(unknown for _, unknown in found)])


def _by_range(
    numbers: npt.NDArray[np.int64], firsts: npt.NDArray[np.int64]
) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """(range, numbers in it) for each range that has some of `numbers`, which ascend."""
    owners = np.searchsorted(firsts, numbers, side="right") - 1
    for number in np.unique(owners).tolist():
        yield number, numbers[owners == number] - firsts[number]


def _drafts(part: Part) -> npt.NDArray[np.uint32]:
    drafts: npt.NDArray[np.uint32] = part.plan.arrays["drafts"].to_numpy(zero_copy_only=False)
    return drafts


def _placed(part: Part, line: int, late: bool) -> Iterator[Numbered]:
    """A part's rejections, their places counted from the beginning of the file: `line` lines stand before the part."""
    for number, rejection in part.rejections(late=late):
        yield number, _moved(rejection, line) if line else rejection


def _moved(rejection: Rejection, lines: int) -> Rejection:
    name, _, number = rejection.place.rpartition(":")
    return replace(rejection, place=f"{name}:{int(number) + lines}")
