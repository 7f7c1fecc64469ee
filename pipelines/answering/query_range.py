"""Answering one range of a query file into one prediction file: what the job itself and every Beam worker run.

Three threads share the work: one retrieves and fetches the next batches, one drives the device, one turns what the
device found into predictions and writes them in input order. A prediction file that is there already is continued.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ... import InputError
from ...encoders.compilation import enable_compilation_cache
from ...encoders.models import LoadedModel, load_model
from ...progress import Progress
from ...reader.formats.kilt import Provenance
from ...reader.formats.predictions import PredictionWriter
from ...reader.formats.queries import LongQuestions, QueryFile
from ...reader.generation import GenerationConfig
from ...reader.grounded import find_spans
from ...reader.serving.candidates import Brought, CandidateFinder
from ...reader.serving.clock import Clock
from ...reader.serving.device_stages import Answers, DeviceStages
from ...reader.serving.prefetch import prefetched
from ...reader.serving.question_batches import Batch, BatchMaker, Prepared
from ...reader.serving.retrieval_index import open_index
from ...storage.memory import Memory
from ...storage.passage import Passage
from .tally import Tally, shown_query

_AHEAD = 2  # batches fetched before the device asks for them

CandidatesFrom = Literal["auto", "retrieval", "provenance"]


@dataclass(frozen=True, kw_only=True)
class AnswerWork:
    """All a worker needs to answer any range of one query file, small enough to ship to it.

    `settings` names what the answers depend on, as (name, value) pairs: kept beside every prediction file, so that only
    answers of the same kind are ever continued. `shown` are the numbers of queries to keep for the report.
    """

    queries: QueryFile
    memory: str
    version: int
    model: str
    candidates: int
    select: int
    rows: int
    generation: GenerationConfig
    precision: str
    brings: bool
    long_questions: LongQuestions
    settings: tuple[tuple[str, Any], ...]
    shown: tuple[int, ...] = ()
    scores: bool = False


class RangeAnswerer:
    """An open memory, an open index and a loaded reader, used for one range after another.

    `memory`, `model` and `brought` may be given where the caller has them open; `brought` then covers every range.
    """

    def __init__(
        self,
        work: AnswerWork,
        *,
        memory: Memory | None = None,
        model: LoadedModel | None = None,
        brought: Brought | None = None,
        progress: Progress | None = None,
    ) -> None:
        enable_compilation_cache()
        self._work = work
        self._memory = memory or Memory.open(work.memory, work.version)
        self._model = model or load_model(work.model)
        self._brought = brought
        everything_brought = work.brings and work.queries.with_candidates == work.queries.count
        self._index = None if everything_brought else open_index(self._memory, progress=progress)
        self._clock = Clock()
        self._device = DeviceStages(
            self._model,
            self._memory,
            candidates=work.candidates,
            select=work.select,
            generation=work.generation,
            precision=work.precision,
            rows=work.rows,
            clock=self._clock,
        )

    def open_output(self, path: Path, start: int, stop: int, *, restart: bool = False) -> PredictionWriter:
        """The prediction file of queries `start` to `stop`, at the place where it was left."""
        ids = (query.id for query in self._work.queries.read(start, stop))
        return PredictionWriter(path, ids, settings=dict(self._work.settings), restart=restart)

    def answer(
        self, writer: PredictionWriter, start: int, stop: int, *, on_written: Callable[[int], None] | None = None
    ) -> Tally:
        """Answers what `writer` lacks of queries `start` to `stop`; what it wrote stays whatever happens.

        `on_written` hears, from another thread, how many predictions this call has written.
        """
        work, first = self._work, start + writer.completed
        before = self._clock.seconds()
        brought = self._brought
        if work.brings and brought is None:
            brought = Brought(self._memory, lambda: work.queries.read(first, stop))
        finder = CandidateFinder(limit=work.candidates, index=self._index, brought=brought if work.brings else None)
        maker = BatchMaker(
            self._model,
            self._memory,
            finder,
            rows=work.rows,
            candidates=work.candidates,
            long_questions=work.long_questions,
            clock=self._clock,
        )
        tally = Tally()
        results = _Results(self, writer, tally, first, on_written)
        with (
            prefetched(maker.batches(work.queries.read(first, stop), first), ahead=_AHEAD) as batches,
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="predictions") as pool,
        ):
            writing: list[Future[None]] = []
            for batch in batches:
                answers = self._device.run(batch) if batch.shape is not None else None
                writing.append(pool.submit(results.take, batch, answers))
                while len(writing) > 1:
                    writing.pop(0).result()
            for future in writing:
                future.result()
        results.check_complete()
        after = self._clock.seconds()
        tally.seconds = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
        return tally


class _Prediction(NamedTuple):
    """A line of the prediction file."""

    id: str
    answer: str
    provenance: Sequence[Provenance]
    note: str | None


class _Results:
    """Turns what the device found into predictions and writes them in the order of the queries."""

    def __init__(
        self,
        owner: RangeAnswerer,
        writer: PredictionWriter,
        tally: Tally,
        first: int,
        on_written: Callable[[int], None] | None,
    ) -> None:
        self._work, self._memory, self._model = owner._work, owner._memory, owner._model
        self._clock, self._writer, self._tally, self._on_written = owner._clock, writer, tally, on_written
        self._next = first
        self._waiting: dict[int, _Prediction] = {}
        self._shown = frozenset(owner._work.shown)

    def take(self, batch: Batch, answers: Answers | None) -> None:
        """A batch is done; everything that is now next in line is written."""
        with self._clock.stage("write"):
            for row, each in enumerate(batch.queries):
                self._waiting[each.number] = self._prediction(each, answers, row)
            while self._next in self._waiting:
                id_, text, provenance, note = self._waiting.pop(self._next)
                self._writer.write(id=id_, answer=text, provenance=provenance, note=note)
                self._next += 1
            if self._on_written is not None:
                self._on_written(self._writer.written)

    def check_complete(self) -> None:
        """Every query that was read has been written."""
        if self._waiting:
            raise InputError(f"{self._work.queries.name}: it was changed while it was being answered")

    def _prediction(self, each: Prepared, answers: Answers | None, row: int) -> _Prediction:
        tally, found, note = self._tally, each.found, _note(each)
        tally.answered += 1
        if answers is None:
            tally.without_candidates += not each.skipped
            tally.empty += each.skipped
            if each.number in self._shown:
                tally.samples[each.number] = shown_query(each.query, "", [], found, None, ())
            return _Prediction(each.query.id, "", [], note)
        present = len(found.positions)
        chosen = [int(place) for place in answers.chosen[row] if place < present]
        tokens = answers.tokens[row, : answers.lengths[row]]
        passages = dict(zip(chosen, self._memory.texts(found.positions[chosen]), strict=True))
        text = self._spelled(tokens, list(passages.values())) if self._work.generation.grounded else None
        if text is None:
            text = self._model.tokenizer.decode(tokens).strip()
        tally.empty += not text
        scores = None if answers.scores is None else answers.scores[row, :present]
        shown = each.number in self._shown
        used = scores if scores is not None else found.scores
        provenance = [_provenance(passages[place], None if used is None else float(used[place])) for place in chosen]
        if self._work.scores:
            kept = np.isin(np.arange(present), chosen)
            if found.scores is not None:
                tally.retrieval_scores.add(found.scores.tolist(), kept.tolist())
            if scores is not None:
                tally.rerank_scores.add(scores.tolist(), kept.tolist())
        if shown:
            every = self._memory.texts(found.positions)
            tally.samples[each.number] = shown_query(each.query, text, every, found, scores, chosen)
        return _Prediction(each.query.id, text, provenance, note)

    def _spelled(self, tokens: npt.NDArray[np.int32], passages: Sequence[Passage]) -> str | None:
        """A grounded answer as the best of the passages that hold it has it; None to decode its tokens."""
        for number, start in find_spans(tokens, [passage.tokens for passage in passages])[:1]:
            source = passages[number]
            return self._model.spelled(source.title, source.text, source.tokens, start, start + len(tokens))
        return None


def _note(each: Prepared) -> str | None:
    """What is remarkable about a query's answer, None for most."""
    notes = [] if each.note is None else [each.note]
    if each.query.candidates == () and not each.skipped:
        notes.append("the record has no provenance to answer from")
    if each.found.lacking:
        brought = len(each.query.candidates or ())
        notes.append(f"the memory lacks {each.found.lacking:,} of the {brought:,} places of its provenance")
    return "; ".join(notes) or None


def _provenance(passage: Passage, score: float | None) -> Provenance:
    return Provenance(
        wikipedia_id=passage.article_id,
        title=passage.title,
        start_paragraph_id=passage.start_paragraph_id,
        end_paragraph_id=passage.end_paragraph_id,
        text=passage.text,
        score=score,
        passage_id=passage.passage_id,
    )
