"""Candidates chosen by late interaction, between first-stage retrieval and live A.

The first stage retrieves some hundred passages, whose stored codes are fetched in one read for several questions at a
time and decoded by the memory's codec on the device. A passage's score is its MaxSim (`reader.maxsim`) plus a weight
times the logarithm of the first stage's score; the best go on, with their codes, so that nothing is read twice.

Programs have fixed shapes: of a question's tokens, of the longest passage's, and as many passages as suit the
processor. Passages go in by length, longest first. A question's scores depend on its own passages alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import jax
import numpy as np
import numpy.typing as npt

from ...encoders.captured_arrays import CapturedArrays
from ...encoders.models import LoadedModel
from ..maxsim import maxsim
from ..model import Params, Reader
from .candidates import Found
from .clock import LATE_INTERACTION, Clock
from .compiled_program import Program
from .passage_source import PassageSource
from .question_batches import Prepared, Shapes, passage_widths, smallest
from .token_frequencies import TokenFrequencies

_CPU_TOKENS = 4_096
_ACCELERATOR_TOKENS = 1 << 16
_FETCHED_BYTES = 1 << 27  # of codes fetched together


class LateInteraction:
    """Chooses `keep` of each query's candidates. Not for several threads at once: it reads payload into a buffer.

    Args:
        model: whose question encoder made the memory.
        reader, params: it and its weights, as `load_reader` gives them.
        memory: where candidates lie.
        frequencies: what the question's tokens are weighted by.
        retrieve: candidates of a query, at most.
        keep: candidates that go on (m).
        weight: of the natural logarithm of the first stage's score.
        clock: gets the seconds of `fetch`, `late interaction` and of compiling; no other thread may use it.
    """

    def __init__(
        self,
        model: LoadedModel,
        reader: Reader,
        params: Params,
        memory: PassageSource,
        frequencies: TokenFrequencies,
        *,
        retrieve: int,
        keep: int,
        weight: float,
        clock: Clock,
    ) -> None:
        self._params, self._memory, self._clock = params, memory, clock
        self._keep, self._weight, self._pad = keep, weight, model.tokenizer.pad_id
        self._shapes, self._widths = Shapes(model, memory.window), passage_widths(memory.window)
        self._frequencies = frequencies
        one = retrieve * memory.window * memory.codec.code_bytes
        self._at_once = max(1, _FETCHED_BYTES // one)
        self._buffer = np.empty((0, memory.window, memory.codec.code_bytes), np.uint8)
        self._tokens = _CPU_TOKENS if jax.default_backend() == "cpu" else _ACCELERATOR_TOKENS
        codec = memory.codec

        def encode(params: Params, tokens: jax.Array, length: jax.Array) -> jax.Array:
            return reader.question(params, tokens, length)[0]

        def late_interaction(
            question: jax.Array, weights: jax.Array, codes: jax.Array, lengths: jax.Array
        ) -> jax.Array:
            return maxsim(question, weights, codec.decode(codes, reader.dtype), lengths, dtype=reader.dtype)

        self._encode = Program(encode, clock)
        self._score = Program(late_interaction, clock, captured=CapturedArrays())

    def narrow(self, queries: Sequence[Prepared]) -> Iterator[Prepared]:
        """The queries in their order, each with its best candidates, best first, and their codes."""
        for start in range(0, len(queries), self._at_once):
            part = queries[start : start + self._at_once]
            codes, first = self._fetch(part), 0
            for each in part:
                count = len(each.found.positions)
                yield self._narrowed(each, codes[first : first + count]) if count else each
                first += count

    def _fetch(self, queries: Sequence[Prepared]) -> npt.NDArray[np.uint8]:
        positions = np.concatenate([each.found.positions for each in queries])
        if not len(positions):
            return self._buffer[:0]
        if len(self._buffer) < len(positions):
            self._buffer = np.empty((len(positions), *self._buffer.shape[1:]), np.uint8)
        with self._clock.stage("fetch"):
            return self._memory.fetch(positions, out=self._buffer[: len(positions)])[0]

    def _narrowed(self, query: Prepared, codes: npt.NDArray[np.uint8]) -> Prepared:
        with self._clock.stage(LATE_INTERACTION, compiles=True):
            scores = self._scores(query, codes)
            found, lengths = query.found, query.lengths
            if found.scores is not None:
                scores += self._weight * np.log(np.maximum(found.scores, np.finfo(np.float32).tiny))
            # Equal scores keep the first stage's order.
            best = np.argsort(-scores, kind="stable")[: self._keep]
            width = smallest(self._widths, max(int(lengths[best].max()), 1))
            return replace(
                query,
                found=Found(
                    positions=found.positions[best],
                    scores=None if found.scores is None else found.scores[best],
                    missing=found.missing,
                    late_scores=scores[best],
                ),
                lengths=lengths[best],
                codes=codes[best, :width],
            )

    def _scores(self, query: Prepared, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """MaxSim of a query's candidates, float32 [n]; `codes` uint8 [n, window, code_bytes] are theirs."""
        count = len(query.tokens)
        width = self._shapes.of(count, 1).question
        tokens = np.full((1, width), self._pad, np.int32)
        tokens[0, :count] = query.tokens
        weights = np.zeros(width, np.float32)
        weights[:count] = self._frequencies.weights(query.tokens)
        question = self._encode(width, self._params, tokens, np.array([count], np.int32))
        order = np.argsort(-query.lengths, kind="stable")
        parts: list[tuple[npt.NDArray[np.int64], jax.Array]] = []
        start = 0
        while start < len(order):
            length = smallest(self._widths, max(int(query.lengths[order[start]]), 1))
            rows = max(1, self._tokens // length)
            taken = order[start : start + rows]
            part = np.zeros((rows, length, codes.shape[2]), np.uint8)
            part[: len(taken)] = codes[taken, :length]
            lengths = np.zeros(rows, np.int32)
            lengths[: len(taken)] = query.lengths[taken]
            parts.append((taken, self._score((width, length), question, weights, part, lengths)))
            start += rows
        scores = np.empty(len(order), np.float32)
        for taken, found in parts:
            scores[taken] = np.asarray(found)[: len(taken)]
        return scores
