"""The plan stage as every job runs it: sources identified, read, cut and tokenised, with progress and notes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...encoders.models import LoadedModel
from ...progress import Progress
from ...storage.identity import PassageSettings
from ..corpus import Corpus
from ..corpus.plan import Base, PlanProgress, PlanSummary, Records, TextWriter, plan


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
    settings: PassageSettings,
    strict: bool,
    progress: Progress,
    records: Records | None = None,
    writer: TextWriter | None = None,
    base: Base | None = None,
    may_be_empty: bool = False,
    rejects: Path | None = None,
) -> PlanSummary:
    """Plans `corpus`; see `plan` for the arguments it passes on.

    Args:
        model: tokenises passages.
        settings: words aimed at in a passage, and most tokens.
        records: what reads the corpus in its place, a feed for instance.

    Raises as `plan` does, and InputError if a local file was written to since the corpus was listed.
    """
    for line in corpus.describe():
        progress.say(line)
    progress.stage("plan", total=None, unit="passages")
    summary = plan(
        sources=corpus if records is None else records,
        tokenise=model.passage_tokens,
        window=settings.window,
        writer=writer,
        base=base,
        passage_words=settings.words,
        strict=strict,
        may_be_empty=may_be_empty,
        rejects_path=rejects,
        progress=_plan_progress(progress),
    )
    progress.done()
    corpus.check_unchanged()
    for line in corpus.notes():
        progress.say(line)
    return summary


def _plan_progress(progress: Progress) -> Callable[[PlanProgress], None]:
    """A callback for `plan` that moves the stage: passages, of as many as the share of bytes read suggests."""

    def move(at: PlanProgress) -> None:
        progress.at(at.passages, total=at.passages / at.share if at.share > 0 else None)

    return move
