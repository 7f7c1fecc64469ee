"""Copying: a decoder that may take its next token from where that token stands in the passages.

A pointer-sentinel mixture (Merity et al., arXiv 1609.07843): after each token the decoder spreads one softmax over all
positions of the fused passages and a sentinel. A position's weight goes to the token there, what the sentinel
gets is spread by the ordinary softmax over the vocabulary. Not in GLIMMER's paper. A decoder of random weights learns
to copy through its cross-attention, but first has to learn every word's embedding from attention's output; a pointer
has nothing of that to learn.

Where the reader scores passages, a place may also count by its passage's share of softmax(score): words are then copied
from likely passages rather than from likely places of unlikely ones, and the answer's likelihood teaches the re-ranker
too (as in RAG, arXiv 2005.11401, which sums over passages weighed by retrieval).

An answer of several words is mostly one run of a passage. With `copy_continuation_bias` the positions that follow the
token just written get a learned bias from the decoder's state: where to continue need not be found again token by
token, and whether to stop is weighed against the very word that would come next.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ..encoders.primitives import MASKED, Linear, contract
from .config import DecoderConfig

NO_TOKEN = -1
"""In place of a token's id: nothing to copy stands here (the question, padding, an absent passage)."""


class MixtureLogWeights(NamedTuple):
    """Natural logarithms of the mixture's weights, float32, by answer token [B,T]: `vocabulary` [B,T] is the
    sentinel's, `positions` [B,T,M] are those of the fused positions. Together they sum to 1."""

    vocabulary: jax.Array
    positions: jax.Array


class CopyHead(nnx.Module):
    """q and k [D, W], the sentinel's score [D, 1], and the continuation's where configured. W = config.copy_width."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        width = config.copy_width
        self.q = Linear(config.d_model, width, rngs=rngs, stddev=(config.d_model * width) ** -0.5)
        self.k = Linear(config.d_model, width, rngs=rngs)
        self.sentinel = Linear(config.d_model, 1, rngs=rngs, bias=True)
        # The attribute names the weights `decoder.copy.onward.*` of models on disk.
        self.onward = (
            Linear(config.d_model, 1, rngs=rngs, bias=True, stddev=0.0) if config.copy_continuation_bias else None
        )
        self._specials = sorted({config.start_id, config.eos_id, config.pad_id})

    def keys(self, source: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """source [B,M,D] -> [B,M,W] in `dtype`: keys of the positions."""
        return self.k(source, dtype=dtype)

    def mixture_log_weights(
        self,
        hidden: jax.Array,
        keys: jax.Array,
        tokens: jax.Array,
        written: jax.Array,
        prior: jax.Array | None = None,
        *,
        dtype: DTypeLike,
    ) -> MixtureLogWeights:
        """The mixture's log weights from hidden float32 [B,T,D], after the decoder's last norm, and keys [B,M,W].

        tokens int32 [B,M] stand at the positions,
        `written` int32 [B,T] are the tokens after each of which the next one is sought; `prior` float32 [B,M] is added
        to the positions' scores. Special tokens are never copied: only the vocabulary's softmax ends an answer.
        """
        scores = contract("btw,bmw->btm", self.q(hidden, dtype=dtype), keys, dtype=dtype)
        if prior is not None:
            scores += prior[:, None]
        usable = tokens != NO_TOKEN
        for special in self._specials:
            usable &= tokens != special
        if self.onward is not None:
            before = jnp.pad(jnp.where(usable, tokens, NO_TOKEN), ((0, 0), (1, 0)), constant_values=NO_TOKEN)
            follows = before[:, None, :-1] == written[..., None]
            scores += jnp.where(follows, _project_to_scalar(self.onward, hidden), 0.0)
        scores = jnp.where(usable[:, None], scores, MASKED)
        logs = jax.nn.log_softmax(
            jnp.concatenate([_project_to_scalar(self.sentinel, hidden), scores], axis=-1), axis=-1
        )
        return MixtureLogWeights(logs[..., 0], logs[..., 1:])


def _project_to_scalar(linear: Linear, hidden: jax.Array) -> jax.Array:
    """hidden float32 [B,T,D] through a map to one number: float32 [B,T,1], in float32 whatever the compute dtype."""
    total = jnp.sum(hidden * linear.kernel[...].astype(jnp.float32)[:, 0], axis=-1, keepdims=True)
    return total if linear.bias is None else total + linear.bias[...].astype(jnp.float32)


def mixture_log_probs(logits: jax.Array, mixture: MixtureLogWeights, tokens: jax.Array) -> jax.Array:
    """Natural logarithms of the mixture, float32 [B,T,V], of the vocabulary's logits [B,T,V] and tokens int32 [B,M].

    They sum to 1, so a log-softmax of them changes nothing. For decoding; not made to be differentiated.
    """
    batch, steps, vocabulary = logits.shape
    target = jnp.where(tokens == NO_TOKEN, vocabulary, tokens)  # one past the end: dropped
    question, step = jnp.arange(batch)[:, None, None], jnp.arange(steps)[None, :, None]
    copied = jnp.zeros_like(logits).at[question, step, target[:, None]].add(jnp.exp(mixture.positions), mode="drop")
    written = jax.nn.log_softmax(logits, axis=-1) + mixture.vocabulary[..., None]
    return jnp.logaddexp(written, jnp.log(copied))


def mixture_log_likelihood(
    logits: jax.Array, mixture: MixtureLogWeights, tokens: jax.Array, answers: jax.Array
) -> jax.Array:
    """log p of `answers` int32 [B,T], token by token, under the mixture: float32 [B,T]; nothing [B,T,V] is made."""
    here = tokens[:, None] == answers[..., None]
    copied = jax.nn.logsumexp(jnp.where(here, mixture.positions, MASKED), axis=-1)
    return jnp.logaddexp(log_likelihood(logits, answers) + mixture.vocabulary, copied)


def log_likelihood(logits: jax.Array, answers: jax.Array) -> jax.Array:
    """log softmax of logits [B,T,V] at `answers` int32 [B,T]: float32 [B,T]."""
    chosen = jnp.take_along_axis(logits, answers[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
