"""The re-ranker: a score for every candidate half-way through the live encoder, and the choice of the best few.

GLIMMER's re-ranker (arXiv 2306.10231, section 3) is shallow: a linear map of live A's first token, since live A's
layers have already read passage and question together. A separate re-ranker, which the paper compares against, runs
layers of its own over the same [question; memory] and is used for nothing else.

Beside the linear map a score may hold how well question and passage agree token by token (`late_interaction`), and what
the first stage thought of the passage (`with_retrieval`); neither has weights of its own.

The first token is that of the question's copy in the row. The residual stream of pre-norm layers (T5's) is not
normalised, so it passes an RMSNorm before the linear map; without it the scale of scores would be an accident of the
layer at which they are read.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ..encoders.families.encoder_family import EncoderConfig
from ..encoders.families.family_registry import find_family
from ..encoders.layered import LayeredEncoder
from ..encoders.primitives import Linear, RMSNorm, contract
from .live_encoder import Lengths, run_live, take_rows


def _layers_only(config: EncoderConfig, layers: int, *, rngs: nnx.Rngs, dtype: DTypeLike) -> LayeredEncoder:
    """An encoder that reads hidden states and gives hidden states: without the embedding and the final norm."""
    family = find_family(config.family)
    encoder = family.module(replace(config, num_layers=layers, vocab_size=1), rngs=rngs, dtype=dtype)
    for part in (*family.embedding_parameters, *family.final_parameters):
        delattr(encoder, part)
    return encoder


class Reranker(nnx.Module):
    """Scores [question; memory] rows. `layers` > 0 are the re-ranker's own; 0 means it reads live A's output.

    `late_interaction` is the weight of that similarity.
    """

    def __init__(
        self, config: EncoderConfig, layers: int, *, late_interaction: float = 0.0, rngs: nnx.Rngs, dtype: DTypeLike
    ) -> None:
        self.own_layers, self.late_interaction = layers, late_interaction
        self.norm = RMSNorm(config.d_model, config.layer_norm_eps) if find_family(config.family).pre_norm else None
        self.score = Linear(config.d_model, 1, rngs=rngs)
        self.encoder = _layers_only(config, layers, rngs=rngs, dtype=dtype) if layers else None

    def __call__(
        self,
        hidden: jax.Array,
        lengths: Lengths,
        *,
        question_width: int,
        dropout_rate: float = 0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """hidden float32 [B,m,Sq+L,D] -> scores float32 [B,m], -inf for absent passages."""
        if self.encoder is not None:
            hidden = run_live(
                self.encoder,
                hidden,
                lengths,
                0,
                self.own_layers,
                question_width=question_width,
                dropout_rate=dropout_rate,
                key=key,
            )
        first = hidden[:, :, 0]
        if self.norm is not None:
            first, hidden = self.norm(first), self.norm(hidden) if self.late_interaction else hidden
        # A sum instead of a product of one column, and float32 in every precision: scores order passages.
        scores = jnp.sum(first * self.score.kernel[...].astype(jnp.float32)[:, 0], axis=-1)
        if self.late_interaction:
            scores += self.late_interaction * late_interaction(hidden, lengths, question_width)
        return jnp.where(lengths.passages > 0, scores, -jnp.inf)


def late_interaction(hidden: jax.Array, lengths: Lengths, question_width: int) -> jax.Array:
    """The mean over the question's tokens of the highest cosine with a passage's: hidden [B,m,Sq+L,D] -> float32 [B,m].

    Special tokens count as the others do. Between -1 and 1; of an absent passage -1.
    """
    unit = hidden * jax.lax.rsqrt(jnp.maximum(jnp.square(hidden).sum(axis=-1, keepdims=True), 1e-12))
    batch, candidates, width, size = hidden.shape
    rows = unit.reshape(batch * candidates, width, size)
    cosines = contract("nqd,nld->nql", rows[:, :question_width], rows[:, question_width:], dtype=jnp.float32)
    cosines = cosines.reshape(batch, candidates, question_width, width - question_width)
    present = jnp.arange(width - question_width) < lengths.passages[:, :, None, None]
    best = jnp.where(present, cosines, -1.0).max(axis=-1)
    asked = jnp.arange(question_width) < lengths.question[:, None, None]
    mean: jax.Array = jnp.where(asked, best, 0.0).sum(axis=-1) / jnp.maximum(lengths.question[:, None], 1)
    return mean


def with_retrieval(scores: jax.Array, retrieval: jax.Array, weight: float) -> jax.Array:
    """scores float32 [B,m] + weight * log of the first stage's, `retrieval` float32 [B,m]; those not above 0 add 0.

    Logarithms make `weight` independent of how high a corpus and a question's length let BM25 scores become.
    """
    known = retrieval > 0
    return scores + weight * jnp.where(known, jnp.log(jnp.where(known, retrieval, 1.0)), 0.0)


def select(scores: jax.Array, count: int) -> jax.Array:
    """The `count` best of scores float32 [B,m] -> int32 [B,count], best first; equal scores keep their order."""
    if not 1 <= count <= scores.shape[1]:
        raise ValueError(f"cannot select {count} of {scores.shape[1]} candidates")
    return jax.lax.top_k(scores, count)[1]


def gather_selected(hidden: jax.Array, lengths: Lengths, chosen: jax.Array) -> tuple[jax.Array, Lengths]:
    """The rows `chosen` int32 [B,k] of hidden [B,m,S,D] and of the passages' lengths."""
    return take_rows(hidden, chosen), Lengths(lengths.question, take_rows(lengths.passages, chosen))
