"""Answering one range of a query file into one prediction file: what the job itself and every Beam worker run.

The reader's `Answerer` answers; here its answers become predictions in input order, and the job's tally. A prediction
file that is there already is continued.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ... import UsageError
from ...encoders.models import LoadedModel, load_model
from ...progress import Progress
from ...reader.formats.kilt import Provenance
from ...reader.formats.predictions import PredictionWriter
from ...reader.formats.queries import QueryFile
from ...reader.serving.answer_options import AnswerOptions
from ...reader.serving.answerer import AnsweredQuery, Answerer
from ...reader.serving.candidates import ProvidedPassages
from ...reader.serving.retrieval_index import open_index
from ...reader.serving.token_frequencies import open_token_frequencies
from ...storage.memory import Memory
from ...storage.passage import Passage
from ..engines.seen_by_workers import check_model
from .tally import Tally, shown_query

CandidatesFrom = Literal["auto", "retrieval", "provenance"]


@dataclass(frozen=True, kw_only=True)
class AnswerWork:
    """All a worker needs to answer any range of one query file, small enough to ship to it.

    `provided` says that queries are answered from the passages they bring. `settings` names what the answers depend on,
    as (name, value) pairs: kept beside every prediction file, so that only answers of the same kind are ever continued.
    `shown` are the numbers of queries to keep for the report, and `scores` whether it shows score distributions.
    """

    queries: QueryFile
    memory: str
    version: int
    model: str
    options: AnswerOptions
    provided: bool
    settings: tuple[tuple[str, Any], ...]
    shown: tuple[int, ...] = ()
    scores: bool = False

    def check_sight(self) -> None:
        """Whether this process sees memory, model and query file; raises what keeps it from that."""
        Memory.open(self.memory, self.version, check=False)
        check_model(self.model)
        if not self.queries.path.is_file():
            raise UsageError("a worker does not see the query file", where=self.queries.path)

    @property
    def retrieves(self) -> bool:
        """Whether some query's passages have to be retrieved."""
        return not (self.provided and self.queries.with_candidates == self.queries.count)


class RangeAnswerer:
    """An open memory, an open index and a loaded reader, used for one range after another.

    `memory`, `model` and `provided` may be given where the caller has them open; `provided` then covers every range.
    """

    def __init__(
        self,
        work: AnswerWork,
        *,
        memory: Memory | None = None,
        model: LoadedModel | None = None,
        provided: ProvidedPassages | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._work, self._provided = work, provided
        self._memory = memory or Memory.open(work.memory, work.version)
        self._index = open_index(self._memory, progress=progress) if work.retrieves else None
        late = work.options.late_interaction
        self._answerer = Answerer(
            model or load_model(work.model),
            self._memory,
            work.options,
            frequencies=open_token_frequencies(self._memory, progress=progress) if late else None,
        )

    def open_output(self, path: Path, start: int, stop: int, *, restart: bool = False) -> PredictionWriter:
        """The prediction file of queries `start` to `stop`, at the place where it was left."""
        ids = (query.id for query in self._work.queries.read(start, stop))
        return PredictionWriter(path, ids, settings=dict(self._work.settings), restart=restart)

    def answer(
        self, writer: PredictionWriter, start: int, stop: int, *, on_written: Callable[[int], None] | None = None
    ) -> Tally:
        """Answers what `writer` lacks of queries `start` to `stop`; what it wrote stays whatever happens.

        `on_written` is called with how many predictions this call has written.
        """
        work, first = self._work, start + writer.completed
        before = self._answerer.seconds()
        provided = self._provided if work.provided else None
        if work.provided and provided is None:
            provided = ProvidedPassages(self._memory, lambda: work.queries.read(first, stop))
        tally, shown = Tally(), frozenset(work.shown)
        queries = work.queries.read(first, stop)
        with closing(self._answerer.answer(queries, index=self._index, provided=provided, first=first)) as answers:
            for each in answers:
                with self._answerer.writing():
                    writer.write(
                        id=each.query.id,
                        answer=each.text,
                        provenance=_provenance(each),
                        probability=each.probability,
                        note=each.note,
                    )
                    self._count(tally, each, shown=each.number in shown)
                if on_written is not None:
                    on_written(writer.written)
        after = self._answerer.seconds()
        tally.seconds = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
        return tally

    def _count(self, tally: Tally, each: AnsweredQuery, *, shown: bool) -> None:
        """Adds an answer to the tally."""
        found, scores = each.found, each.candidate_scores
        tally.answered += 1
        tally.without_candidates += each.without_candidates
        tally.empty += not each.text and not each.without_candidates
        if self._work.scores:
            kept = np.isin(np.arange(len(found.positions)), each.chosen).tolist()
            if found.scores is not None:
                tally.retrieval_scores.add(found.scores.tolist(), kept)
            if scores is not None:
                tally.rerank_scores.add(scores.tolist(), kept)
        if shown:
            every = self._memory.texts(found.positions)
            tally.samples[each.number] = shown_query(each.query, each.text, every, found, scores, each.chosen)


def _provenance(each: AnsweredQuery) -> list[Provenance]:
    """The passages that the decoder read, as a prediction names them."""
    return [_place(passage, score) for passage, score in zip(each.passages, each.scores, strict=True)]


def _place(passage: Passage, score: float | None) -> Provenance:
    return Provenance(
        wikipedia_id=passage.article_id,
        title=passage.title,
        start_paragraph_id=passage.start_paragraph_id,
        end_paragraph_id=passage.end_paragraph_id,
        text=passage.text,
        score=score,
        passage_id=passage.passage_id,
    )
