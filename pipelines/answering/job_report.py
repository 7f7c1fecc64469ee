"""Fills the report of an answering job from what the job knows, and writes it where `--report` says."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...storage.codecs import spec_text
from ...storage.memory import Memory
from ...storage.outputs import writing
from .query_range import AnswerWork
from .report import ReportData, render_report
from .risk_coverage import risk_coverage
from .tally import Tally, evaluate_answers


@dataclass(frozen=True, kw_only=True)
class RunFigures:
    """What a run measured: queries `answered` by it and `resumed` from before, wall `seconds`, seconds by stage."""

    answered: int
    resumed: int
    seconds: float
    stages: Mapping[str, float]
    notes: Sequence[str]


def write_report(
    page: str | os.PathLike[str],
    *,
    figures: RunFigures,
    tally: Tally,
    work: AnswerWork,
    memory: Memory,
    predictions: Path,
    candidates_from: str,
) -> None:
    """Writes the HTML report to `page` (`-`: standard output). Raises StorageError; the predictions are complete."""
    asked, options, generation = work.queries, work.options, work.options.generation
    notes = list(figures.notes)
    if figures.resumed:
        notes.append(
            f"{figures.resumed:,} of {asked.count:,} predictions were there already; time, scores and the sample are "
            "of the others."
        )
    data = ReportData(
        title=Path(asked.name).name,
        created=datetime.datetime.now().astimezone(),
        settings={
            "query file": f"{asked.name} ({asked.format})",
            "memory": f"{memory.location}, version {memory.version}",
            "passages": f"{memory.passages:,}",
            "codec": spec_text(memory.codec.spec()),
            "model": work.model,
            "candidates": _candidates(work, candidates_from),
            "selected": options.select,
            "decoding": "greedy" if generation.beams == 1 else f"{generation.beams} beams",
            "longest answer": f"{generation.max_new_tokens} tokens",
            "grounded": "yes" if generation.grounded else "no",
            "precision": options.precision,
            **({"no answer below": options.no_answer_below} if options.no_answer_below else {}),
            "queries in a batch": options.rows,
        },
        queries=figures.answered,
        seconds=figures.seconds,
        stages=list(figures.stages.items()),
        retrieval_scores=tally.retrieval_scores if tally.retrieval_scores.all else None,
        rerank_scores=tally.rerank_scores if tally.rerank_scores.all else None,
        evaluation=evaluate_answers(asked, predictions),
        coverage=risk_coverage(asked, predictions) if asked.with_gold else None,
        samples=[tally.samples[number] for number in sorted(tally.samples)],
        notes=notes,
    )
    with writing(page, "--report") as file:
        file.write(render_report(data).encode())


def _candidates(work: AnswerWork, candidates_from: str) -> str:
    options, source = work.options, _candidate_source(work, candidates_from)
    if options.late_interaction:
        return f"{options.candidates}, chosen by late interaction of {options.retrieve} from {source}"
    return f"{options.candidates}, from {source}"


def _candidate_source(work: AnswerWork, candidates_from: str) -> str:
    if candidates_from == "provenance":
        return "gold provenance"
    if work.provided:
        return "the query file, else BM25" if work.retrieves else "the query file"
    return "BM25"
