"""MaxSim: late interaction of a question with passages over the vectors that the memory holds.

ColBERT's score (arXiv 2004.12832): each of the question's tokens finds the passage token that it is most similar to,
and what they find is averaged. Here question tokens count by how rare they are in the memory (their inverse document
frequency), so that function words and special tokens, which every passage has, decide nothing; and the vectors are
those that were stored for the live encoder, so that a score costs no encoding of passages.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..encoders.primitives import contract

_SMALLEST = 1e-12  # of a squared norm: vectors of zeros are similar to nothing


def maxsim(
    question: jax.Array, weights: jax.Array, passages: jax.Array, lengths: jax.Array, *, dtype: DTypeLike
) -> jax.Array:
    """The scores of n passages for one question, float32 [n], between -1 and 1.

    `question` [Sq,D] and `passages` [n,L,D] are hidden states, of which `lengths` int32 [n] tokens each are real; an
    absent passage, of length 0, has -1. `weights` float32 [Sq] of the question's tokens are 0 at padding; where all are
    0, so is every score but that. `dtype` is that of the products, which accumulate in float32.
    """
    squares = jnp.square(question.astype(jnp.float32)).sum(-1, keepdims=True)
    unit = question * jax.lax.rsqrt(jnp.maximum(squares, _SMALLEST))
    products = contract("nld,qd->nlq", passages, unit, dtype=dtype)
    norms = jnp.square(passages.astype(jnp.float32)).sum(-1, keepdims=True)
    cosines = products * jax.lax.rsqrt(jnp.maximum(norms, _SMALLEST))
    present = jnp.arange(passages.shape[1]) < lengths[:, None]
    best = jnp.where(present[..., None], cosines, -1.0).max(axis=1)
    scores: jax.Array = (best * weights).sum(-1) / jnp.maximum(weights.sum(), _SMALLEST)
    return jnp.where(lengths > 0, scores, -1.0)
