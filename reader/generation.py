"""Writing the answer: greedy and beam search inside one compiled loop.

Shapes are fixed (`max_new_tokens`), keys and values are cached, passages' keys and values are computed once a question
and shared by its beams. Token sequences are those of Hugging Face `generate` with the same `num_beams`,
`length_penalty`, `early_stopping` (False, True or "never") and `max_new_tokens`: its beam search is followed step by
step, the bookkeeping of finished beams included, so that a converted checkpoint answers as it did there. A question's
answer does not depend on what else is in the batch: one that is done is carried along unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from .. import UsageError
from .decoder import AnswerCache, CrossMemory, Decoder
from .grounded import Grounding, advance, allowed, first_matches, may_end
from .live_encoder import take_rows

NO_ANSWER = -1e9  # score of an answer that was not found; far below any real one, and finite


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How answers are decoded. `beams` 1 is greedy search.

    `length_penalty` divides a beam's log-probability by (tokens, the end included) ** length_penalty: above 0 it
    favours longer answers. `early_stopping`: True stops a question once `beams` answers have ended; False continues
    until the best running beam cannot beat the worst of them at its present length; "never" until it cannot at any
    length. Fewer than `min_new_tokens` are never written; `min_new_tokens` = `max_new_tokens` decodes exactly that many
    (see `fixed_steps`). `grounded` allows only runs of tokens that occur in the passages.
    """

    max_new_tokens: int = 32
    min_new_tokens: int = 0
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    grounded: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.beams < 1:
            raise UsageError("max_new_tokens and beams must be at least 1")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise UsageError(f"min_new_tokens must be between 0 and max_new_tokens ({self.max_new_tokens})")
        if self.early_stopping not in (True, False, "never"):
            raise UsageError(f'early_stopping must be true, false or "never", not {self.early_stopping!r}')
        if self.grounded and self.min_new_tokens > 1:
            raise UsageError("grounded answers end where their passage does: min_new_tokens cannot be demanded of them")

    @classmethod
    def fixed_steps(cls, steps: int, *, beams: int = 1) -> GenerationConfig:
        """Exactly `steps` tokens, the end of the answer ignored: for benchmarks."""
        return cls(max_new_tokens=steps, min_new_tokens=steps, beams=beams)


class Generated(NamedTuple):
    """Answers, best first. N = beams.

    `tokens` int32 [B,N,T] without the start token, end-of-answer included where reached, then padding; `lengths` int32
    [B,N] counts tokens before the end; `log_probs` float32 [B,N] is log p(tokens | question, passages), natural
    logarithm, end included; `scores` float32 [B,N] the same after the length penalty (what beams are ordered by).
    Where fewer than N answers exist, the rest have length 0 and a score of -1e9.
    """

    tokens: jax.Array
    lengths: jax.Array
    log_probs: jax.Array
    scores: jax.Array


def generate(
    decoder: Decoder,
    table: jax.Array | None,
    cross: CrossMemory,
    config: GenerationConfig,
    ground: Grounding | None = None,
) -> Generated:
    """Decodes one answer (greedy) or `config.beams` answers to each question of `cross`; traceable.

    `table` is the encoder's word embeddings where the decoder shares them; `ground` is needed by a grounded config.
    """
    if config.grounded != (ground is not None):
        raise ValueError("pass `ground` exactly when the configuration is grounded")
    search = _greedy if config.beams == 1 else _beam_search
    return search(decoder, table, cross, config, ground)


def _permitted(
    log_probs: jax.Array,
    step: jax.Array,
    decoder: Decoder,
    config: GenerationConfig,
    ground: Grounding | None,
    matches: jax.Array | None,
) -> jax.Array:
    """log_probs [B,N,V] with -inf at tokens that may not come now."""
    eos = decoder.config.eos_id
    if config.min_new_tokens:
        ban = (jnp.arange(log_probs.shape[-1]) == eos) & (step < config.min_new_tokens)
        log_probs = jnp.where(ban, -jnp.inf, log_probs)
    if ground is not None and matches is not None:
        may = allowed(ground, matches, log_probs.shape[-1])
        # The end needs a whole word before it, unless the passages have none to offer.
        end = ((step > 0) & may_end(ground, matches)) | ~may.any(axis=-1)
        log_probs = jnp.where(may.at[..., eos].set(end), log_probs, -jnp.inf)
    return log_probs


class _Greedy(NamedTuple):
    step: jax.Array
    last: jax.Array
    tokens: jax.Array
    lengths: jax.Array
    log_probs: jax.Array
    ended: jax.Array
    cache: AnswerCache
    matches: jax.Array | None


def _greedy(
    decoder: Decoder,
    table: jax.Array | None,
    cross: CrossMemory,
    config: GenerationConfig,
    ground: Grounding | None,
) -> Generated:
    shape, steps = decoder.config, config.max_new_tokens
    batch = cross.bias.shape[0]
    # A second, equal row per question: on CPUs XLA's one-row products are so much slower that two rows cost less.
    rows = 2

    def further(state: _Greedy) -> jax.Array:
        return (state.step < steps) & ~state.ended.all()

    def body(state: _Greedy) -> _Greedy:
        pair = jnp.broadcast_to(state.last[:, None], (batch, rows))
        logits, cache = decoder.step(pair, state.step, state.cache, cross, table)
        log_probs = jax.nn.log_softmax(logits[:, :1], axis=-1)
        log_probs = _permitted(log_probs, state.step, decoder, config, ground, state.matches)
        best = jnp.argmax(log_probs, axis=-1).astype(jnp.int32)
        gained = jnp.take_along_axis(log_probs, best[..., None], axis=-1)[..., 0]
        token = jnp.where(state.ended, shape.pad_id, best[:, 0])
        running = ~state.ended
        ended = state.ended | (token == shape.eos_id)
        matches = state.matches
        if ground is not None and matches is not None:
            matches = advance(ground, matches, token[:, None])
        return _Greedy(
            step=state.step + 1,
            last=token,
            tokens=jax.lax.dynamic_update_slice_in_dim(state.tokens, token[:, None], state.step, axis=1),
            lengths=state.lengths + (running & ~ended),
            log_probs=state.log_probs + jnp.where(running, gained[:, 0], 0.0),
            ended=ended,
            cache=cache,
            matches=matches,
        )

    start = _Greedy(
        step=jnp.int32(0),
        last=jnp.full((batch,), shape.start_id, jnp.int32),
        tokens=jnp.full((batch, steps), shape.pad_id, jnp.int32),
        lengths=jnp.zeros((batch,), jnp.int32),
        log_probs=jnp.zeros((batch,), jnp.float32),
        ended=jnp.zeros((batch,), bool),
        cache=decoder.empty_cache(batch, rows, steps),
        matches=None if ground is None else first_matches(ground, 1),
    )
    end = jax.lax.while_loop(further, body, start)
    written = jnp.maximum(end.lengths + end.ended, 1).astype(jnp.float32)
    scores = end.log_probs / written**config.length_penalty
    return Generated(end.tokens[:, None], end.lengths[:, None], end.log_probs[:, None], scores[:, None])


class _Hypotheses(NamedTuple):
    """Answers and what is known of them; every field starts [B,N]."""

    tokens: jax.Array
    scores: jax.Array
    log_probs: jax.Array
    lengths: jax.Array
    ended: jax.Array

    def take(self, index: jax.Array) -> _Hypotheses:
        """Rows `index` int32 [B,K] of every field."""
        return _Hypotheses(*(take_rows(field, index) for field in self))


class _Beams(NamedTuple):
    step: jax.Array
    running: _Hypotheses  # scores are log-probabilities
    finished: _Hypotheses  # scores are penalised by length
    hopeful: jax.Array  # bool [B,1]: a running beam may still beat a finished one
    more: jax.Array  # bool []
    cache: AnswerCache
    matches: jax.Array | None


def _beam_search(
    decoder: Decoder,
    table: jax.Array | None,
    cross: CrossMemory,
    config: GenerationConfig,
    ground: Grounding | None,
) -> Generated:
    shape, steps, beams = decoder.config, config.max_new_tokens, config.beams
    batch = cross.bias.shape[0]
    penalty, stop_when_full = config.length_penalty, config.early_stopping is True
    # 2 N continuations: even if N of them end now, N remain to continue with.
    considered = 2 * beams
    among_best = jnp.arange(considered) < beams

    def body(state: _Beams) -> _Beams:
        step, length = state.step, (state.step + 1).astype(jnp.float32)
        previous = jax.lax.dynamic_index_in_dim(state.running.tokens, jnp.maximum(step - 1, 0), axis=2, keepdims=False)
        last = jnp.where(step == 0, shape.start_id, previous)
        logits, cache = decoder.step(last, step, state.cache, cross, table)
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        log_probs = _permitted(log_probs, step, decoder, config, ground, state.matches)
        vocabulary = log_probs.shape[-1]
        totals = (log_probs + state.running.scores[..., None]).reshape(batch, -1)
        best, flat = jax.lax.top_k(totals, considered)
        parents, tokens = flat // vocabulary, (flat % vocabulary).astype(jnp.int32)
        written = jax.lax.dynamic_update_slice_in_dim(
            take_rows(state.running.tokens, parents), tokens[..., None], step, axis=2
        )
        at_eos = tokens == shape.eos_id
        ending = at_eos | (step + 1 >= steps)
        lengths = step + 1 - at_eos.astype(jnp.int32)
        candidates = _Hypotheses(tokens=written, scores=best, log_probs=best, lengths=lengths, ended=ending)

        going_on = jnp.where(ending, -jnp.inf, best)
        chosen = jax.lax.top_k(going_on, beams)[1]
        running = candidates._replace(scores=going_on).take(chosen)
        parents = take_rows(parents, chosen)

        ended_now = ending & among_best
        blocked = ~state.hopeful | (state.finished.ended.all(axis=1, keepdims=True) & stop_when_full)
        penalised = jnp.where(ended_now & ~blocked, best / length**penalty, -jnp.inf)
        new = candidates._replace(scores=penalised, ended=ended_now)
        merged = _Hypotheses(*(jnp.concatenate(pair, axis=1) for pair in zip(state.finished, new, strict=True)))
        finished = merged.take(jax.lax.top_k(merged.scores, beams)[1])

        reach = float(steps) if config.early_stopping == "never" and penalty > 0.0 else length
        possible = running.scores[:, :1] / reach**penalty
        worst = jnp.where(finished.ended, finished.scores.min(axis=1, keepdims=True), NO_ANSWER)
        hopeful = state.hopeful & (possible > worst).any(axis=1, keepdims=True)
        more = hopeful.any() & ~ending.all()
        if stop_when_full:
            more &= ~finished.ended.all()
        matches = state.matches
        if ground is not None and matches is not None:
            matches = advance(ground, take_rows(matches, parents), take_rows(tokens, chosen))
        return _Beams(step + 1, running, finished, hopeful, more, cache.reorder(parents), matches)

    def nothing(scores: jax.Array) -> _Hypotheses:
        return _Hypotheses(
            tokens=jnp.full((batch, beams, steps), shape.pad_id, jnp.int32),
            scores=scores,
            log_probs=scores,
            lengths=jnp.zeros((batch, beams), jnp.int32),
            ended=jnp.zeros((batch, beams), bool),
        )

    # Beams but the first start as impossible, or all would write the same tokens.
    first = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf) * jnp.ones((batch, 1))
    start = _Beams(
        step=jnp.int32(0),
        running=nothing(first.astype(jnp.float32)),
        finished=nothing(jnp.full((batch, beams), NO_ANSWER, jnp.float32)),
        hopeful=jnp.ones((batch, 1), bool),
        more=jnp.array(True),
        cache=decoder.empty_cache(batch, beams, steps),
        matches=None if ground is None else first_matches(ground, beams),
    )
    end = jax.lax.while_loop(lambda state: state.more, body, start).finished
    return Generated(tokens=end.tokens, lengths=end.lengths, log_probs=end.log_probs, scores=end.scores)
