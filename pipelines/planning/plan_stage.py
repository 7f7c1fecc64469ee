"""The plan stage as every job runs it: sources identified, read, cut and tokenised, with progress and notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...encoders.builtin_models import name_for_others
from ...encoders.models import LoadedModel
from ...progress import Progress
from ...storage.identity import PassageSettings
from ...storage.stores import Store
from ..corpus import Corpus
from ..corpus.ranges import SourceRange, ranges_digest
from ..corpus.source_file import SourceFile
from ..engines import Engine
from ..engines.seen_by_workers import memory_for_workers
from .plan_sources import PlannedSources, plan_sources
from .plan_step import HeldRanges, Planner, PlanWork, Report, StoredRanges, Tools, tokenizer_digest
from .range_plan import Base, PlanSettings, RangePlan

_PARTS: Final = "plan"
_WHOLE: Final = 1 << 62  # a dry run is one range: it need not be read again for articles that two ranges hold


@dataclass(frozen=True, kw_only=True)
class PlanPlace:
    """Where a job plans, and where its parts go.

    Attributes:
        store, job_key: the memory and the job's directory in it.
        engine: where ranges are planned.
        range_bytes: bytes of a range, about.
    """

    store: Store
    job_key: str
    engine: Engine
    range_bytes: int

    def prefix(self, ranges: Sequence[SourceRange]) -> str:
        """The key of the parts: another for ranges that are cut otherwise."""
        return f"{self.job_key}/{_PARTS}/{ranges_digest(ranges)}"


@dataclass(frozen=True, kw_only=True)
class PlanBase:
    """The version that a refresh plans against.

    Attributes:
        here: makes a `Base` for one range, in this process.
        elsewhere: opens what makes one in another process; picklable.
        take: given what each range gave, in the order of the ranges.
    """

    here: Callable[[], Base]
    elsewhere: Callable[[], Callable[[], Base]]
    take: Callable[[RangePlan], None]


def identify_sources(corpus: Corpus, progress: Progress) -> list[dict[str, Any]]:
    """The content identity of a corpus, whose local files are read for it."""
    megabytes = corpus.bytes / 1e6
    progress.stage("identify sources", total=megabytes, unit="MB")
    identity = corpus.identity(lambda share: progress.at(megabytes * share))
    progress.done()
    return identity


def plan_corpus(
    corpus: Corpus,
    *,
    model: LoadedModel,
    passages: PassageSettings,
    strict: bool,
    progress: Progress,
    place: PlanPlace | None = None,
    base: PlanBase | None = None,
    feed: bool = False,
    may_be_empty: bool = False,
    rejects: Path | None = None,
) -> PlannedSources:
    """Plans `corpus`; see `plan_sources` for the arguments it passes on.

    Args:
        model: tokenises passages.
        passages: words aimed at in a passage, and most tokens.
        place: where the parts go; None writes nothing (a dry run).
        base: what is there already; only other passages are tokenised and written. None writes all.

    Raises as `plan_sources` does, and InputError if a local file was written to since the corpus was listed.
    """
    settings = PlanSettings(window=passages.window, words=passages.words, strict=strict)
    tools = Tools(settings=settings, tokenise=model.passage_tokens, base=None if base is None else base.here)
    for line in corpus.describe():
        progress.say(line)
    progress.stage("plan", total=None, unit="passages")
    ranges = corpus.ranges(_WHOLE if place is None else place.range_bytes)
    planner: Planner
    if place is None:
        planner = HeldRanges(tools)
    else:
        prefix = place.prefix(ranges)
        work = PlanWork(
            memory=memory_for_workers(place.store, place.engine),
            prefix=prefix,
            model=name_for_others(model.path),
            tokenizer=tokenizer_digest(model),
            settings=settings,
            base=None if base is None else base.elsewhere,
            files=_some_files(ranges),
        )
        planner = StoredRanges(place.store, prefix, tools=tools, work=work, engine=place.engine)
    planned = plan_sources(
        corpus,
        ranges,
        planner,
        feed=feed,
        may_be_empty=may_be_empty,
        rejects_path=rejects,
        take=None if base is None else base.take,
        report=_report(progress),
    )
    progress.done()
    corpus.check_unchanged()
    for line in corpus.notes():
        progress.say(line)
    return planned


def _some_files(ranges: Sequence[SourceRange]) -> tuple[SourceFile, ...]:
    """Files of the first and of the last range, by which a worker tells whether it sees the sources."""
    parts = [source.parts[0] for source in (*ranges[:1], *ranges[-1:])]
    return tuple(part.file.for_others() for part in parts if isinstance(part.file, SourceFile))


def _report(progress: Progress) -> Report:
    """Moves the stage: passages, of as many as the share of bytes read suggests."""

    def move(share: float, passages: int) -> None:
        progress.at(passages, total=passages / share if share > 0 else None)

    return move
