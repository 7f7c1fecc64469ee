"""What every encoder family offers to the rest of Glimmer: an embedding and layers that can be run a few at a time.

The memory encoder runs `embed` and the lower layers offline; the reader runs the upper ones on [question; memory],
stops half-way to re-rank, and goes on. Neither knows which family it drives: both see the `LayeredEncoder` protocol.
The residual stream (`hidden`) is float32 in every precision: it is where rounding would add up over layers, products
deliver float32 anyway, and on CPU it measured no slower than a bfloat16 stream.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from .primitives import MASKED


class Context(NamedTuple):
    """What every layer of one run shares: additive score terms, each broadcastable to float32 [B, H, S, S].

    `mask` [B,1,1,S] hides padding keys; `position_bias` [B|1,H,S,S], or [N,H,S,S] for B / N rows each, is T5's
    relative bias (None for BERT). A pytree, so it passes through jit and across calls of `run`.
    """

    mask: jax.Array
    position_bias: jax.Array | None = None

    def terms(self) -> tuple[jax.Array, ...]:
        """The terms that exist, for `attend`."""
        return (self.mask,) if self.position_bias is None else (self.position_bias, self.mask)


class LayeredEncoder(Protocol):
    """An encoder whose layers are run in slices, an `nnx.Module`. B rows, S positions, D = config.d_model.

    `embedding` [vocab_size, D] are the word embeddings, `dtype` is the compute dtype of products (bfloat16 or float32).
    Layer numbers are the whole model's, whichever layers this instance has (`layer_range`).
    """

    embedding: nnx.Param[jax.Array]
    layers: nnx.List[Any]
    dtype: DTypeLike
    layer_range: range

    def embed(self, tokens: jax.Array) -> jax.Array:
        """tokens int32 [B,S] -> hidden float32 [B,S,D]; positions, where the family adds any, are 0..S-1."""
        ...

    def context(self, mask: jax.Array, positions: jax.Array | None = None) -> Context:
        """mask bool [B,S] (True = real token), positions int32 [B,S] or None for 0..S-1 -> what `run` needs."""
        ...

    def run(
        self,
        hidden: jax.Array,
        context: Context,
        start: int,
        stop: int,
        *,
        dropout_rate: float = 0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """hidden float32 [B,S,D] through layers [start, stop) -> the same shape; `key` turns training dropout on."""
        ...

    def finish(self, hidden: jax.Array) -> jax.Array:
        """What the family does once after its last layer (T5: the final norm; BERT: nothing)."""
        ...


def mask_bias(mask: jax.Array) -> jax.Array:
    """mask bool [B,S] -> additive float32 [B,1,1,S]: 0 where True, `MASKED` where False."""
    return jnp.where(mask, 0.0, MASKED).astype(jnp.float32)[:, None, None, :]


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B,S,H*Dh] -> [B,S,H,Dh]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def merge_heads(x: jax.Array) -> jax.Array:
    """[B,S,H,Dh] -> [B,S,H*Dh]."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def layer_slice(layer_range: range, start: int, stop: int) -> slice:
    """Index of layers [start, stop) within an instance that has `layer_range`; ValueError where it lacks some."""
    if start > stop or (start < stop and not (layer_range.start <= start and stop <= layer_range.stop)):
        raise ValueError(
            f"layers [{start}, {stop}) asked of an encoder that has [{layer_range.start}, {layer_range.stop})"
        )
    return slice(start - layer_range.start, stop - layer_range.start)


def layer_key(key: jax.Array | None, part: int) -> jax.Array | None:
    """A dropout key for one part of a layer; None (no dropout) stays None."""
    return None if key is None else jax.random.fold_in(key, part)


class LayerStack(nnx.Module):
    """`run` of a `LayeredEncoder`, the same in every family: subclasses set `layers`, `dtype` and `layer_range`."""

    layers: nnx.List[Any]
    dtype: DTypeLike
    layer_range: range

    def run(
        self,
        hidden: jax.Array,
        context: Context,
        start: int,
        stop: int,
        *,
        dropout_rate: float = 0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        chosen = layer_slice(self.layer_range, start, stop)
        for number in range(chosen.start, chosen.stop):
            hidden = self.layers[number](
                hidden,
                context,
                dtype=self.dtype,
                dropout_rate=dropout_rate,
                key=layer_key(key, number + self.layer_range.start),
            )
        return hidden
