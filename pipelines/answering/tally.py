"""What an answering job gathers while it works, and the report it makes of it at the end.

A `Tally` belongs to one range of the query file and can be sent as JSON, so that the parts answered by different
workers add up to one report. Quality is scored at the end from the two files, query by query, whatever their size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import StorageError
from ...reader.formats.evaluation import Evaluation, TaskScores, score
from ...reader.formats.kilt import Output, Record, gold_answers, parse_json_object, parse_outputs, read_lines
from ...reader.formats.metrics import exact_match
from ...reader.formats.queries import Query, QueryFile
from ...reader.serving.candidates import Found
from ...reader.serving.clock import added
from ...storage.passage import Passage
from .charts import ScoreSample
from .report import SAMPLE_QUERIES, SHOWN_PASSAGES, ReportPassage, ReportQuery

_SENT_SCORES = 2_000


@dataclass
class Tally:
    """Counts, seconds by stage, score samples and shown queries of one range.

    `without_candidates` queries found no passage and got an empty answer; `empty` are other empty answers. `samples`
    are the queries to show, by number.
    """

    answered: int = 0
    without_candidates: int = 0
    empty: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    samples: dict[int, ReportQuery] = field(default_factory=dict)
    retrieval_scores: ScoreSample = field(default_factory=ScoreSample)
    rerank_scores: ScoreSample = field(default_factory=ScoreSample)

    def add(self, other: Tally) -> None:
        """Takes in the tally of the range that follows."""
        self.answered += other.answered
        self.without_candidates += other.without_candidates
        self.empty += other.empty
        self.seconds = added(self.seconds, other.seconds)
        self.samples |= other.samples
        for mine, theirs in (
            (self.retrieval_scores, other.retrieval_scores),
            (self.rerank_scores, other.rerank_scores),
        ):
            mine.all += theirs.all
            mine.kept += theirs.kept

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values; score samples thinned, since there may be many parts."""
        return {
            "answered": self.answered,
            "without_candidates": self.without_candidates,
            "empty": self.empty,
            "seconds": self.seconds,
            "samples": {str(number): asdict(sample) for number, sample in self.samples.items()},
            "retrieval_scores": _thinned(self.retrieval_scores),
            "rerank_scores": _thinned(self.rerank_scores),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tally:
        """What `to_json` gave."""
        return cls(
            answered=value["answered"],
            without_candidates=value["without_candidates"],
            empty=value["empty"],
            seconds=dict(value["seconds"]),
            samples={int(number): _sample(sample) for number, sample in value["samples"].items()},
            retrieval_scores=ScoreSample(**value["retrieval_scores"]),
            rerank_scores=ScoreSample(**value["rerank_scores"]),
        )


def _thinned(sample: ScoreSample) -> dict[str, list[float]]:
    return {
        name: values[:: max(1, -(-len(values) // _SENT_SCORES))]
        for name, values in (("all", sample.all), ("kept", sample.kept))
    }


def _sample(value: Mapping[str, Any]) -> ReportQuery:
    passages = {name: tuple(ReportPassage(**passage) for passage in value[name]) for name in ("before", "after")}
    return ReportQuery(**{**value, "gold": tuple(value["gold"]), **passages})


def shown_numbers(first: int, count: int) -> tuple[int, ...]:
    """Which of the queries `first` to `count` the report shows: spread evenly over them."""
    left = count - first
    shown = min(left, SAMPLE_QUERIES)
    return tuple(first + place * left // shown for place in range(shown))


def shown_query(
    query: Query,
    answer: str,
    passages: Sequence[Passage],
    found: Found,
    scores: npt.NDArray[np.float32] | None,
    chosen: Sequence[int],
) -> ReportQuery:
    """A query as the report shows it, with its candidates in both orders; `chosen` are the places of those kept."""
    pages = {page.wikipedia_id for output in query.outputs or () for page in output.provenance or ()} - {None}
    kept = set(chosen)

    def shown(place: int) -> ReportPassage:
        passage = passages[place]
        return ReportPassage(
            passage_id=passage.passage_id,
            title=passage.title,
            text=passage.text,
            retrieval_score=None if found.scores is None else float(found.scores[place]),
            rerank_score=None if scores is None else float(scores[place]),
            kept=place in kept,
            gold=passage.article_id in pages,
        )

    # A stable sort, so that equal scores keep the order of the candidates, as the selection does.
    order = [] if scores is None else np.argsort(-scores, kind="stable").tolist()
    gold = gold_answers(query.outputs or ())
    return ReportQuery(
        id=query.id,
        question=query.question,
        answer=answer,
        gold=tuple(gold),
        correct=bool(exact_match(answer, gold)) if gold else None,
        before=tuple(shown(place) for place in range(len(passages))),
        after=tuple(shown(place) for place in order[:SHOWN_PASSAGES]),
    )


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """One of a file's first answers: the question, the answer, and the title of the best passage read for it."""

    question: str
    answer: str
    title: str


def first_answers(queries: QueryFile, predictions: Path, count: int = 3) -> tuple[FirstAnswer, ...]:
    """The first `count` answers of a prediction file, which stand in the order of the queries."""
    pairs = zip(queries.read(0, count), _outputs(predictions), strict=False)
    return tuple(
        FirstAnswer(query.question, output.answer or "", next((p.title or "" for p in output.provenance or ()), ""))
        for query, output in pairs
    )


def evaluate_answers(queries: QueryFile, predictions: Path) -> Evaluation | None:
    """KILT's metrics over the queries that have gold; None where none has.

    Reads both files side by side: predictions stand in the order of the queries.
    """
    if not queries.with_gold:
        return None
    whole: defaultdict[str, float] = defaultdict(float)
    tasks: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    counts: defaultdict[str | None, int] = defaultdict(int)
    for query, guess in zip(queries, _outputs(predictions), strict=True):
        if query.outputs is None:
            continue
        gold = Record(id=query.id, place=query.place, question=query.question, outputs=query.outputs, task=query.task)
        counts[None] += 1
        if query.task is not None:
            counts[query.task] += 1
        for name, value in score(gold, guess).items():
            whole[name] += value
            if query.task is not None:
                tasks[query.task][name] += value
    return Evaluation(
        questions=counts[None],
        metrics={name: total / counts[None] for name, total in whole.items()},
        tasks={
            task: TaskScores(
                questions=counts[task], metrics={name: total / counts[task] for name, total in totals.items()}
            )
            for task, totals in tasks.items()
        },
    )


def _outputs(predictions: Path) -> Iterator[Output]:
    for number, line in read_lines(predictions):
        value = parse_json_object(line)
        try:
            (output,) = parse_outputs(value["output"])
        except (KeyError, ValueError) as error:
            raise StorageError(f"{predictions}:{number}: not what was written there ({error})") from None
        yield output
