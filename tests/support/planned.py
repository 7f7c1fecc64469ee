"""Planning for tests: sources to the passages and rejected records of a plan, without a model."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from glimmer.pipelines.corpus import Corpus
from glimmer.pipelines.corpus.fitting import Tokenise
from glimmer.pipelines.planning.plan_sources import PlannedSources, plan_sources
from glimmer.pipelines.planning.plan_step import HeldRanges, Planner, StoredRanges, Tools
from glimmer.pipelines.planning.plan_summary import PlanSummary
from glimmer.pipelines.planning.planned_text import PlannedText
from glimmer.pipelines.planning.range_plan import Base, PlanSettings
from glimmer.storage.passage import Passage
from glimmer.storage.stores import open_store

Source = str | os.PathLike[str]


def plan(
    sources: Sequence[Source],
    tokenise: Tokenise,
    *,
    window: int,
    passage_words: int = 100,
    strict: bool = False,
    rejects_path: Path | None = None,
    range_bytes: int = 1 << 40,
    place: str | Path | None = None,
    base: Callable[[], Base] | None = None,
    report: Callable[[float, int], None] = lambda share, passages: None,
    feed: bool = False,
    take: Callable[[Any], None] | None = None,
    **options: Any,
) -> tuple[PlanSummary, list[Passage]]:
    """Plans `sources` into parts in memory, or in the directory `place`; the summary and all passages."""
    tools = Tools(
        settings=PlanSettings(window=window, words=passage_words, strict=strict), tokenise=tokenise, base=base
    )
    store = open_store(place or f"memory://{uuid.uuid4()}")
    corpus = Corpus(list(sources), may_be_empty=feed, **options)
    planner = StoredRanges(store, "plan", tools=tools)
    planned = _planned(corpus, planner, range_bytes, rejects_path, report, feed, take)
    return planned.summary, PlannedText(store, planned.text).read_rows(range(sum(planned.text.rows)))


def dry_plan(
    sources: Sequence[Source],
    tokenise: Tokenise,
    *,
    window: int,
    base: Callable[[], Base] | None = None,
    take: Callable[[Any], None] | None = None,
    strict: bool = False,
    range_bytes: int = 1 << 40,
) -> PlanSummary:
    """What `plan` counts, with nothing written."""
    tools = Tools(settings=PlanSettings(window=window, strict=strict), tokenise=tokenise, base=base)
    corpus = Corpus(list(sources))
    return _planned(corpus, HeldRanges(tools), range_bytes, None, lambda share, passages: None, False, take).summary


def _planned(
    corpus: Corpus,
    planner: Planner,
    range_bytes: int,
    rejects_path: Path | None,
    report: Callable[[float, int], None],
    feed: bool,
    take: Callable[[Any], None] | None,
) -> PlannedSources:
    return plan_sources(
        corpus,
        corpus.ranges(range_bytes),
        planner,
        feed=feed,
        may_be_empty=feed,
        rejects_path=rejects_path,
        take=take,
        report=report,
    )
