"""The answering engine: queries in, answers with their passages out, in the order of the queries.

Three threads share the work: one retrieves, chooses and fetches the next batches, one drives the device, and the
caller's turns what the device found into text. `glimmer answer`, its Beam workers and `glimmer.Reader` all answer with
an `Answerer`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ...encoders.compilation import enable_compilation_cache
from ...encoders.models import LoadedModel
from ...encoders.precision import Precision
from ...storage.passage import Passage
from ..formats.queries import Query
from ..grounded import find_spans
from ..model import Params, load_reader
from ..model import Reader as ReaderNetwork
from .answer_options import AnswerOptions
from .candidates import CandidateFinder, Found, ProvidedPassages
from .clock import COMPILE, LATE_INTERACTION, STAGES, Clock, added
from .device_stages import Answers, DeviceStages
from .late_interaction import LateInteraction
from .passage_source import PassageSource
from .prefetch import prefetched
from .question_batches import Batch, BatchMaker, Prepared
from .retrieval import Bm25Index
from .token_frequencies import TokenFrequencies

_AHEAD = 2  # batches fetched before the device asks for them


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredQuery:
    """A query and what the reader made of it.

    Attributes:
        number: the query's place among the queries, from 0.
        query: the query itself.
        text: the answer, "" where there is none, or where its probability is below `AnswerOptions.no_answer_below`.
        probability: what the decoder gives the whole answer, 0 to 1; None where nothing was decoded.
        passages: what the decoder read, best first; `scores` are theirs: the re-ranker's, of a reader without one late
            interaction's or the first stage's, None where the query provided the passages.
        found: all of the query's candidates, those that late interaction chose where it is used.
        candidate_scores: float32 [n] of the re-ranker for `found`, None where it did not run.
        chosen: places in `found` of `passages`.
        note: what is remarkable about the answer, None for most.
        skipped: the question was too long and was not to be answered.
    """

    number: int
    query: Query
    text: str
    probability: float | None
    passages: tuple[Passage, ...]
    scores: tuple[float | None, ...]
    found: Found
    candidate_scores: npt.NDArray[np.float32] | None
    chosen: tuple[int, ...]
    note: str | None
    skipped: bool

    @property
    def without_candidates(self) -> bool:
        """Whether no passage was found for it, so that it has no answer."""
        return not len(self.found.positions) and not self.skipped


class Answerer:
    """A model on the device and a memory to answer from, used for one set of queries after another.

    Compiled programs are kept, so that later calls start at once. Not for several threads at a time.

    Args:
        model: a model directory with a decoder.
        memory: an open memory whose encoder is the model's, which the caller has checked (`check_encoder`), or other
            codes of its passages.
        options: how to answer.
        network: the reader and its weights in `options.precision` (`load_reader`), where the caller has them.
        frequencies: the memory's token frequencies, which late interaction needs; None for options without it.
    """

    def __init__(
        self,
        model: LoadedModel,
        memory: PassageSource,
        options: AnswerOptions,
        *,
        network: tuple[ReaderNetwork, Params] | None = None,
        frequencies: TokenFrequencies | None = None,
    ) -> None:
        enable_compilation_cache()
        self._model, self._memory, self._options = model, memory, options
        self._clock = Clock()
        reader, params = network or load_network(model, options.precision)
        self._device = DeviceStages(
            reader,
            params,
            model.tokenizer,
            memory,
            candidates=options.candidates,
            select=options.select,
            generation=options.generation,
            rows=options.rows,
            late_interaction=options.late_interaction,
            clock=self._clock,
        )
        self._late_clock = Clock()
        self._late: LateInteraction | None = None
        if options.late_interaction:
            if frequencies is None:
                raise ValueError("late interaction needs the memory's token frequencies")
            self._late = LateInteraction(
                model,
                reader,
                params,
                memory,
                frequencies,
                retrieve=options.retrieve,
                keep=options.candidates,
                weight=options.retrieval_weight,
                clock=self._late_clock,
            )

    def answer(
        self,
        queries: Iterable[Query],
        *,
        index: Bm25Index | None,
        provided: ProvidedPassages | None = None,
        first: int = 0,
    ) -> Generator[AnsweredQuery, None, None]:
        """Answers `queries`, the first of which is number `first`, in their order, as the answers come.

        `index` is the memory's first-stage index, which may be None where every query brings its passages; `provided`
        says where those lie, None retrieves for every query. Close the iterator to leave early: its threads then end.
        """
        options = self._options
        finder = CandidateFinder(limit=options.retrieve, index=index, provided=provided)
        maker = BatchMaker(
            self._model,
            self._memory,
            finder,
            rows=options.rows,
            candidates=options.candidates,
            long_questions=options.long_questions,
            clock=self._clock,
            narrow=None if self._late is None else self._late.narrow,
        )
        waiting: dict[int, AnsweredQuery] = {}
        following = first
        with (
            prefetched(maker.batches(queries, first), ahead=_AHEAD, name="batches") as batches,
            prefetched(map(self._computed, batches), ahead=1, name="device") as computed,
        ):
            for batch, answers in computed:
                with self._clock.stage("write"):
                    for row, each in enumerate(batch.queries):
                        waiting[each.number] = self._answered(each, answers, row)
                while following in waiting:
                    yield waiting.pop(following)
                    following += 1

    def seconds(self) -> dict[str, float]:
        """Seconds by stage since this object was made (see `clock`)."""
        spent = added(self._clock.seconds(), self._late_clock.seconds())
        order = (*STAGES[:2], LATE_INTERACTION, *STAGES[2:], COMPILE)
        return {name: spent[name] for name in order if name in spent}

    def writing(self) -> AbstractContextManager[None]:
        """Times a block of the caller's as part of the stage `write`."""
        return self._clock.stage("write")

    def _computed(self, batch: Batch) -> tuple[Batch, Answers | None]:
        return batch, self._device.run(batch) if batch.shape is not None else None

    def _answered(self, each: Prepared, answers: Answers | None, row: int) -> AnsweredQuery:
        found, note = each.found, _note(each)
        known: dict[str, Any] = {
            "number": each.number,
            "query": each.query,
            "found": found,
            "skipped": each.skipped,
        }
        if answers is None:
            return AnsweredQuery(
                **known, note=note, text="", probability=None, passages=(), scores=(), candidate_scores=None, chosen=()
            )
        present = len(found.positions)
        chosen = [int(place) for place in answers.chosen[row] if place < present]
        tokens = answers.tokens[row, : answers.lengths[row]]
        passages = self._memory.texts(found.positions[chosen])
        text = self._surface_text(tokens, passages) if self._options.generation.grounded else None
        if text is None:
            text = self._model.tokenizer.decode(tokens).strip()
        probability = math.exp(min(float(answers.log_probs[row]), 0.0))
        if text and probability < self._options.no_answer_below:
            withheld = f"the answer {text!r} was withheld: its probability is {probability:.3g}"
            text, note = "", withheld if note is None else f"{note}; {withheld}"
        reranked = None if answers.scores is None else answers.scores[row, :present]
        first = found.scores if found.late_scores is None else found.late_scores
        used = reranked if reranked is not None else first
        return AnsweredQuery(
            **known,
            note=note,
            text=text,
            probability=probability,
            passages=tuple(passages),
            scores=tuple(None if used is None else float(used[place]) for place in chosen),
            candidate_scores=reranked,
            chosen=tuple(chosen),
        )

    def _surface_text(self, tokens: npt.NDArray[np.int32], passages: Sequence[Passage]) -> str | None:
        """A grounded answer as the best of the passages that hold it has it; None to decode its tokens."""
        for number, start in find_spans(tokens, [passage.tokens for passage in passages])[:1]:
            source = passages[number]
            return self._model.surface_text(source.title, source.text, source.tokens, start, start + len(tokens))
        return None


def load_network(model: LoadedModel, precision: Precision) -> tuple[ReaderNetwork, Params]:
    """The reader of a model and its weights on the device, to be shared by several `Answerer`s."""
    return load_reader(model, dtype=jnp.dtype(precision))


def _note(each: Prepared) -> str | None:
    """What is remarkable about a query's answer, None for most."""
    notes = [] if each.note is None else [each.note]
    if each.query.candidates == () and not each.skipped:
        notes.append("the record has no provenance to answer from")
    if each.found.missing:
        provided = len(each.query.candidates or ())
        notes.append(f"the memory lacks {each.found.missing:,} of the {provided:,} places of its provenance")
    return "; ".join(notes) or None
