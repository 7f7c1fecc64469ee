"""The device's part of answering: a batch of codes and questions in, scores and answers out, stage by stage.

Each stage is one compiled program per shape, compiled when the shape is first met and timed apart from its runs. How
much goes into one call depends on the processor: accelerators take a whole batch, CPUs one question and about two
thousand tokens at a time, which is when intermediate results still fit the cache (measured: forty candidates at once
take twice as long as ten at a time), longest candidates first, so that most calls need not be as wide as the longest of
all. Decoding always takes the whole batch, since reading the decoder's weights is what it costs. Either way no
operation mixes questions, and how a query is split depends on itself and the shape alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ... import ModelError
from ...encoders.captured_arrays import CapturedArrays
from ...encoders.models import LoadedModel
from ...encoders.tokenizers import Tokenizer
from ...storage.codecs import Codec
from ..config import ReaderConfig
from ..fusion import Fused
from ..generation import GenerationConfig
from ..grounded import check_groundable, grounding
from ..live_encoder import Lengths, take_rows
from ..model import Candidates, Params, Reader
from .clock import Clock
from .compiled_program import Program
from .passage_source import PassageSource
from .question_batches import Batch, Shape, passage_widths, smallest

_CPU_TOKENS = 2_048
_ACCELERATOR_TOKENS = 1 << 18
_CPU_ROWS, _ACCELERATOR_ROWS = 8, 16


def default_rows() -> int:
    """Queries in a batch where none are asked for."""
    return _CPU_ROWS if jax.default_backend() == "cpu" else _ACCELERATOR_ROWS


@dataclass(frozen=True, slots=True)
class Answers:
    """What the device found for a batch of B queries, of which the first `len(batch.queries)` count.

    Attributes:
        tokens: int32 [B, T], the best answer's tokens, `lengths` int32 [B] of them before the end.
        log_probs: float32 [B], the natural logarithm of the probability that the decoder gives the answer.
        chosen: int32 [B, k], candidates that the decoder saw, best first; absent ones (beyond a query's own) last.
        scores: float32 [B, m] of the re-ranker, None where this reader does not re-rank.
    """

    tokens: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    log_probs: npt.NDArray[np.float32]
    chosen: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32] | None


class DeviceStages:
    """A reader with its weights on the device, ready for batches of `rows` queries of `candidates` passages.

    Args:
        reader, params: the reader and its weights, as `load_reader` gives them.
        tokenizer: the model's; grounded answers need to know where its words begin.
        memory: gives the codec, and for answers that are grounded or copied the passages' tokens.
        candidates, select: m and k.
        generation: how answers are decoded.
        rows: queries in a batch (B).
        late_interaction: candidates were chosen by it, and have its scores.
        clock: gets the seconds of the device's stages and of compiling.
    """

    def __init__(
        self,
        reader: Reader,
        params: Params,
        tokenizer: Tokenizer,
        memory: PassageSource,
        *,
        candidates: int,
        select: int,
        generation: GenerationConfig,
        rows: int,
        late_interaction: bool,
        clock: Clock,
    ) -> None:
        self._params = params
        if generation.grounded:
            check_groundable(reader.config)
        self._memory, self._clock = memory, clock
        self._rows, self._candidates, self._widths = rows, candidates, passage_widths(memory.window)
        copies = reader.config.decoder.copy_width > 0
        self._needs_tokens = generation.grounded or copies
        specials = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id}
        words = tokenizer.word_parts() if generation.grounded else None
        codec = memory.codec

        def rank(
            parts: list[Candidates],
            back: jax.Array,
            passages: jax.Array,
            retrieval: jax.Array,
            late_scores: jax.Array,
        ) -> tuple[jax.Array, jax.Array | None, jax.Array]:
            hidden = jnp.concatenate([part.hidden for part in parts], axis=1)[:, back]
            scored = [part.scores for part in parts if part.scores is not None]
            scores = jnp.concatenate(scored, axis=1)[:, back] if scored else None
            together = reader.ranked(Candidates(hidden, scores), retrieval, late_scores if late_interaction else None)
            # The re-ranker's scores do not depend on the question's length: only the passages' matter here.
            chosen = reader.select(together, Lengths(jnp.zeros(passages.shape[0], jnp.int32), passages), select)
            return hidden, together.scores, chosen

        def answer(
            params: Any, fused: list[Fused], tokens: jax.Array, lengths: jax.Array, scores: jax.Array | None
        ) -> tuple[jax.Array, ...]:
            whole = Fused(*(jnp.concatenate([getattr(part, name) for part in fused]) for name in ("hidden", "mask")))
            if copies:
                question = whole.mask.shape[1] // select - tokens.shape[2]
                whole = reader.attach_copy_inputs(whole, tokens, lengths, scores, question_width=question)
            ground = None
            if generation.grounded:
                ground = grounding(tokens, lengths, specials=sorted(specials), words=words)
            found = reader.answer(params, whole, generation, ground)
            return found.tokens[:, 0], found.lengths[:, 0], found.log_probs[:, 0]

        self._question = Program(reader.question, clock)
        self._decompress = Program(_decoding(codec, reader.dtype), clock, captured=CapturedArrays())
        self._live_a = Program(reader.live_a, clock)
        self._widen = Program(_widened, clock, static="width")
        self._rank = Program(rank, clock)
        self._live_b = Program(reader.live_b, clock, static="question_width")
        self._answer = Program(answer, clock)

    def run(self, batch: Batch) -> Answers:
        """Answers a batch; returns when the device is done. The batch's arrays must not change meanwhile."""
        shape = batch.shape
        if shape is None:
            raise ValueError("a batch without candidates needs no device")
        self._clock.next_batch()
        questions, passages = _split(shape, self._rows, self._candidates)
        fused: list[Fused] = []
        chosen: list[jax.Array] = []
        scores: list[jax.Array | None] = []
        for start in range(0, self._rows, questions):
            # Groups without a query of their own stand for the first one again: nobody looks at their answers.
            filled = start < len(batch.queries)
            if filled:
                part, kept, scored = self._live(shape, batch, slice(start, start + questions), passages)
            fused.append(part if filled else fused[0])
            chosen.append(kept if filled else chosen[0])
            scores.append(scored if filled else scores[0])
        tokens, lengths = self._grounds(shape, batch, chosen, questions)
        pairs = zip(scores, chosen, strict=True)
        known = [take_rows(scored, kept) for scored, kept in pairs if scored is not None]
        kept_scores = jnp.concatenate(known) if known else None
        with self._clock.device("decode") as wait:
            answers, counts, log_probs = self._answer(shape, self._params, fused, tokens, lengths, kept_scores)
            wait.append(answers)
        return Answers(
            tokens=np.asarray(answers),
            lengths=np.asarray(counts),
            log_probs=np.asarray(log_probs),
            chosen=np.concatenate([np.asarray(part) for part in chosen]),
            scores=None if scores[0] is None else np.concatenate([np.asarray(part) for part in scores]),
        )

    def _live(
        self, shape: Shape, batch: Batch, rows: slice, passages: int
    ) -> tuple[Fused, jax.Array, jax.Array | None]:
        """Question encoder, live A over all candidates, the choice, live B: for a few questions of the batch."""
        clock, params = self._clock, self._params
        lengths = jnp.asarray(batch.question_lengths[rows])
        with clock.device("question") as wait:
            question = self._question(shape, params, jnp.asarray(batch.questions[rows]), lengths)
            wait.append(question)
        calls = -(-self._candidates // passages)
        counts = _padded(batch.passage_lengths[rows], calls * passages)
        every = Lengths(lengths, jnp.asarray(counts))
        order = _longest_first(counts)
        parts: list[Candidates] = []
        for start in range(0, len(order), passages):
            taken = order[start : start + passages]
            count = counts[:, taken]
            part = Shape(shape.question, min(smallest(self._widths, max(int(count.max()), 1)), shape.passage))
            # Places beyond the candidates are absent passages, whatever codes stand there.
            codes = batch.codes[rows, :, : part.passage][:, np.minimum(taken, self._candidates - 1)]
            with clock.device("decompress") as wait:
                memory = self._decompress((part, passages), jnp.asarray(codes))
                wait.append(memory)
            with clock.device("live A") as wait:
                found = self._live_a((part, passages), params, question, memory, Lengths(lengths, jnp.asarray(count)))
                hidden = found.hidden
                if part != shape:
                    hidden = self._widen((part, shape, passages), hidden, width=shape.question + shape.passage)
                parts.append(found._replace(hidden=hidden))
                wait.append(parts[-1])
        retrieval = _padded(batch.retrieval[rows], len(order))
        late = _padded(batch.late_scores[rows], len(order))
        back = jnp.asarray(np.argsort(order))
        with clock.device("live A") as wait:
            hidden, scores, chosen = self._rank(
                shape, parts, back, every.passages, jnp.asarray(retrieval), jnp.asarray(late)
            )
            wait.append(chosen)
        with clock.device("live B") as wait:
            fused = self._live_b(shape, params, hidden, every, chosen, question_width=shape.question)
            wait.append(fused)
        return fused, chosen, scores

    def _grounds(
        self, shape: Shape, batch: Batch, chosen: list[jax.Array], questions: int
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Tokens int32 [B, k, L] and their number int32 [B, k] of the chosen passages; empty where none are needed."""
        if not self._needs_tokens:
            return np.zeros((0, 0, 0), np.int32), np.zeros((0, 0), np.int32)
        picked = np.concatenate([np.asarray(part) for part in chosen])
        tokens = np.zeros((*picked.shape, shape.passage), np.int32)
        lengths = np.zeros(picked.shape, np.int32)
        for row, each in enumerate(batch.queries):
            present = np.flatnonzero(picked[row] < len(each.found.positions))
            positions = each.found.positions[picked[row][present]]
            for place, passage in zip(present, self._memory.texts(positions), strict=True):
                tokens[row, place, : len(passage.tokens)] = passage.tokens
                lengths[row, place] = len(passage.tokens)
        # Rows after the queries repeat the first, or where a whole group repeats the first group, that group's row.
        count = len(batch.queries)
        for row in range(count, self._rows):
            like = row % questions if row - row % questions >= count else 0
            tokens[row], lengths[row] = tokens[like], lengths[like]
        return tokens, lengths


def _decoding(codec: Codec, dtype: Any) -> Callable[[jax.Array], jax.Array]:
    return lambda codes: codec.decode(codes, dtype)


def _widened(hidden: jax.Array, width: int) -> jax.Array:
    """hidden [B,n,S,D] -> [B,n,width,D], what is new 0: padding, which the passages' lengths hide."""
    return jnp.pad(hidden, ((0, 0), (0, 0), (0, width - hidden.shape[2]), (0, 0)))


def _longest_first(lengths: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """The order in which candidates of `lengths` int32 [g, n] are computed; as they stand for several questions."""
    return np.argsort(-lengths[0], kind="stable") if len(lengths) == 1 else np.arange(lengths.shape[1])


def _split(shape: Shape, rows: int, candidates: int) -> tuple[int, int]:
    """(questions, candidates) of one call of the live encoder; questions divide `rows`."""
    width = shape.question + shape.passage
    if jax.default_backend() == "cpu":
        questions, most = 1, max(1, _CPU_TOKENS // width)
    else:
        fitting = max(1, _ACCELERATOR_TOKENS // (width * candidates))
        questions = max(count for count in range(1, rows + 1) if rows % count == 0 and count <= fitting)
        most = max(1, _ACCELERATOR_TOKENS // width)
    calls = -(-candidates // most)
    return questions, -(-candidates // calls)


def _padded(array: npt.NDArray[Any], candidates: int) -> npt.NDArray[Any]:
    """[g, n, ...] -> [g, candidates, ...], the missing ones zero: a last call is filled up with absent passages."""
    missing = candidates - array.shape[1]
    return np.pad(array, [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)]) if missing else array


def check_answers(model: LoadedModel, *, grounded: bool) -> ReaderConfig:
    """The reader of a model directory, from its configuration alone.

    Raises ModelError where the model cannot answer (no decoder) and MismatchError where it cannot answer grounded.
    """
    config = ReaderConfig.from_model(model.config, f"{model.path}/config.json")
    if config.decoder.vocab_size < model.tokenizer.vocab_size:
        raise ModelError(
            f"{model.path}: the decoder writes {config.decoder.vocab_size} tokens, its tokenizer has "
            f"{model.tokenizer.vocab_size}"
        )
    if grounded:
        check_groundable(config)
    return config
