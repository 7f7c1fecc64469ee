"""Fusion: the selected passages laid end to end, which is all the decoder sees of them.

Fusion-in-decoder (arXiv 2007.01282) encodes passages apart and lets cross-attention range over all of them at once. The
question's part of every row is kept, as FiD keeps it: each copy has been read together with another passage.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from .copying import NO_TOKEN
from .live_encoder import Lengths, row_mask


class Fused(NamedTuple):
    """What cross-attention reads: `hidden` float32 [B, k*(Sq+L), D] and `mask` bool [B, k*(Sq+L)].

    A decoder that copies also needs `tokens` int32 [B, k*(Sq+L)] (`fused_tokens`), and one that copies by score `prior`
    float32 of that shape (`fused_prior`); None elsewhere.
    """

    hidden: jax.Array
    mask: jax.Array
    tokens: jax.Array | None = None
    prior: jax.Array | None = None


def fuse(hidden: jax.Array, lengths: Lengths, question_width: int) -> Fused:
    """hidden [B,k,Sq+L,D] -> `Fused`; padding and absent passages are masked."""
    batch, passages, width, features = hidden.shape
    mask = row_mask(lengths, question_width, width - question_width)
    return Fused(hidden.reshape(batch, passages * width, features), mask.reshape(batch, passages * width))


def fused_tokens(tokens: jax.Array, lengths: jax.Array, question_width: int) -> jax.Array:
    """The token at each position of `Fused`, from the selected passages' tokens int32 [B,k,L] and lengths int32 [B,k].

    int32 [B,k*(Sq+L)]; `NO_TOKEN` over the question's copies and beyond a passage's end.
    """
    real = jnp.arange(tokens.shape[2]) < lengths[:, :, None]
    only = jnp.where(real, tokens, NO_TOKEN)
    wide = jnp.pad(only, ((0, 0), (0, 0), (question_width, 0)), constant_values=NO_TOKEN)
    return wide.reshape(tokens.shape[0], -1)


def fused_prior(scores: jax.Array, row_width: int) -> jax.Array:
    """log softmax of the selected passages' scores float32 [B,k] at each of their places: float32 [B,k*row_width].

    Of an absent passage (score -inf) it is finite and far below any other.
    """
    logs = jax.nn.log_softmax(jnp.maximum(scores, -1e6), axis=-1)
    return jnp.repeat(logs, row_width, axis=-1)
