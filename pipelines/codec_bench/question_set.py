"""The questions of the benchmark and a reader for them: found candidates, and answers from whatever codes there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import numpy as np
import numpy.typing as npt

from ...encoders.models import LoadedModel
from ...progress import Progress
from ...reader.formats.queries import Query, QueryFile
from ...reader.serving.answer_options import AnswerOptions
from ...reader.serving.answerer import AnsweredQuery, Answerer, load_network
from ...reader.serving.candidates import CandidateFinder, ProvidedPassages
from ...reader.serving.passage_source import PassageSource
from ...reader.serving.retrieval_index import open_index
from ...reader.serving.token_frequencies import open_token_frequencies
from ...storage.memory import Memory
from .answer_comparison import ScoredAnswers

_LOOKED_UP = 256


class QuestionSet:
    """The first `limit` queries of a file (None: all) with their candidates in `memory`, and the reader's weights.

    Attributes:
        count: queries.
        positions: int64 [n], the candidates of all of them, ascending and distinct.

    Raises InputError where a query brings a passage that the memory lacks.
    """

    def __init__(
        self,
        asked: QueryFile,
        limit: int | None,
        *,
        model: LoadedModel,
        memory: Memory,
        options: AnswerOptions,
        progress: Progress,
    ) -> None:
        self._asked, self._model, self._options, self._progress = asked, model, options, progress
        self.count = asked.count if limit is None else min(limit, asked.count)
        self._provided = ProvidedPassages(memory, self._queries) if asked.with_candidates else None
        if self._provided is not None:
            self._provided.check(self._queries(), asked.name)
        retrieves = asked.with_candidates < asked.count
        self._index = open_index(memory, progress=progress) if retrieves else None
        self.positions = self._candidates()
        late = options.late_interaction
        self._frequencies = open_token_frequencies(memory, progress=progress) if late else None
        self._network = load_network(model, options.precision)

    def answers(self, passages: PassageSource, label: str) -> ScoredAnswers:
        """Answers every question from `passages`; `label` names the stage."""
        answerer = Answerer(self._model, passages, self._options, network=self._network, frequencies=self._frequencies)
        self._progress.stage(f"answer {label}", total=self.count, unit="queries")
        with closing(answerer.answer(self._queries(), index=self._index, provided=self._provided)) as found:
            scored = ScoredAnswers.of(self._counted(found))
        self._progress.done()
        return scored

    def _queries(self) -> Iterator[Query]:
        return self._asked.read(0, self.count)

    def _counted(self, found: Iterator[AnsweredQuery]) -> Iterator[AnsweredQuery]:
        for number, each in enumerate(found):
            yield each
            self._progress.at(number + 1)

    def _candidates(self) -> npt.NDArray[np.int64]:
        finder = CandidateFinder(limit=self._options.retrieve, index=self._index, provided=self._provided)
        self._progress.stage("retrieve", total=self.count, unit="queries")
        queries, done = self._queries(), 0
        found: set[int] = set()
        while group := list(islice(queries, _LOOKED_UP)):
            for each in finder.find(group):
                found.update(each.positions.tolist())
            done += len(group)
            self._progress.at(done)
        self._progress.done()
        return np.array(sorted(found), np.int64)
