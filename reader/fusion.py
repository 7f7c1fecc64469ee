"""Fusion: the kept passages laid end to end, which is all the decoder sees of them.

Fusion-in-decoder (arXiv 2007.01282) encodes passages apart and lets cross-attention range over all of them at once. The
question's part of every row is kept, as FiD keeps it: each copy has been read together with another passage.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

from .live_encoder import Lengths, row_mask


class Fused(NamedTuple):
    """What cross-attention reads: `hidden` float32 [B, k*(Sq+L), D] and `mask` bool [B, k*(Sq+L)]."""

    hidden: jax.Array
    mask: jax.Array


def fuse(hidden: jax.Array, lengths: Lengths, question_width: int) -> Fused:
    """hidden [B,k,Sq+L,D] -> `Fused`; padding and absent passages are masked."""
    batch, passages, width, features = hidden.shape
    mask = row_mask(lengths, question_width, width - question_width)
    return Fused(hidden.reshape(batch, passages * width, features), mask.reshape(batch, passages * width))
