"""T5 1.1's encoder (and T5 1.0's, without gates) as a layered encoder.

Pre-norm layers without biases, scores not scaled, and one table of relative position biases, which belongs to the
encoder and is shared by all layers. The paper is arXiv 1910.10683; the 1.1 changes (gated GELU, untied output) are
those of T5's released `t5.1.1` checkpoints.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from .families.t5 import T5Config
from .layered import Context, LayerStack, layer_key, mask_bias, merge_heads, split_heads
from .primitives import Linear, RMSNorm, attend, dropout, relative_position_bucket


class T5Attention(nnx.Module):
    """Self-attention: q, k, v [D, H*Dh] and o [H*Dh, D], without biases."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        inner = config.num_heads * config.d_kv
        self.heads = config.num_heads
        # T5's own initialisation: queries absorb the 1/sqrt(d_kv) that its scores leave out.
        self.q = Linear(config.d_model, inner, rngs=rngs, stddev=(config.d_model * config.d_kv) ** -0.5)
        self.k = Linear(config.d_model, inner, rngs=rngs)
        self.v = Linear(config.d_model, inner, rngs=rngs)
        self.o = Linear(inner, config.d_model, rngs=rngs)

    def __call__(
        self, x: jax.Array, context: Context, *, dtype: DTypeLike, dropout_rate: float, key: jax.Array | None
    ) -> jax.Array:
        """x [B,S,D] -> float32 [B,S,D]."""
        q, k, v = (split_heads(part(x, dtype=dtype), self.heads) for part in (self.q, self.k, self.v))
        mixed = attend(q, k, v, context.terms(), dtype=dtype, dropout_rate=dropout_rate, key=key)
        return self.o(merge_heads(mixed), dtype=dtype, out_dtype=jnp.float32)


class T5Mlp(nnx.Module):
    """gelu(x wi_0) * (x wi_1) wo when gated (1.1), relu(x wi_0) wo when not (1.0)."""

    def __init__(self, d_model: int, d_ff: int, *, gated: bool, rngs: nnx.Rngs) -> None:
        self.wi_0 = Linear(d_model, d_ff, rngs=rngs)
        self.wi_1 = Linear(d_model, d_ff, rngs=rngs) if gated else None
        self.wo = Linear(d_ff, d_model, rngs=rngs)

    def __call__(self, x: jax.Array, *, dtype: DTypeLike, dropout_rate: float, key: jax.Array | None) -> jax.Array:
        """x [B,S,D] -> float32 [B,S,D]."""
        inner = self.wi_0(x, dtype=dtype, out_dtype=jnp.float32)
        if self.wi_1 is None:
            inner = jax.nn.relu(inner)
        else:
            inner = jax.nn.gelu(inner, approximate=True) * self.wi_1(x, dtype=dtype, out_dtype=jnp.float32)
        return self.wo(dropout(inner, dropout_rate, key), dtype=dtype, out_dtype=jnp.float32)


class T5Layer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = RMSNorm(config.d_model, config.layer_norm_eps)
        self.attention = T5Attention(config, rngs=rngs)
        self.mlp_norm = RMSNorm(config.d_model, config.layer_norm_eps)
        self.mlp = T5Mlp(config.d_model, config.d_ff, gated=config.gated, rngs=rngs)

    def __call__(
        self, hidden: jax.Array, context: Context, *, dtype: DTypeLike, dropout_rate: float, key: jax.Array | None
    ) -> jax.Array:
        """hidden float32 [B,S,D] -> the same."""
        keys = [layer_key(key, part) for part in range(4)]
        normed = self.attention_norm(hidden, out_dtype=dtype)
        update = self.attention(normed, context, dtype=dtype, dropout_rate=dropout_rate, key=keys[0])
        hidden = hidden + dropout(update, dropout_rate, keys[1])
        normed = self.mlp_norm(hidden, out_dtype=dtype)
        update = self.mlp(normed, dtype=dtype, dropout_rate=dropout_rate, key=keys[2])
        return hidden + dropout(update, dropout_rate, keys[3])


class T5Encoder(LayerStack):
    """A `LayeredEncoder`; see there for shapes. `layer_range` are the layers this instance has (default: all)."""

    def __init__(
        self, config: T5Config, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32, layer_range: range | None = None
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.layer_range = range(config.num_layers) if layer_range is None else layer_range
        self.buckets, self.max_distance = config.relative_buckets, config.relative_max_distance
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (config.vocab_size, config.d_model), jnp.float32))
        self.relative_bias = nnx.Param(
            jax.random.normal(rngs.params(), (self.buckets, config.num_heads), jnp.float32) * config.d_model**-0.5
        )
        self.layers = nnx.List([T5Layer(config, rngs=rngs) for _ in self.layer_range])
        self.final_norm = RMSNorm(config.d_model, config.layer_norm_eps)

    def embed(self, tokens: jax.Array) -> jax.Array:
        return self.embedding[...][tokens].astype(jnp.float32)

    def context(self, mask: jax.Array, positions: jax.Array | None = None) -> Context:
        if positions is None:
            positions = jnp.arange(mask.shape[1], dtype=jnp.int32)[None]
        bucket = relative_position_bucket(
            positions[:, None, :] - positions[:, :, None],
            bidirectional=True,
            num_buckets=self.buckets,
            max_distance=self.max_distance,
        )
        relative = self.relative_bias[...].astype(jnp.float32)[bucket]  # [B|1, S, S, H]
        return Context(mask=mask_bias(mask), position_bias=relative.transpose(0, 3, 1, 2))

    def finish(self, hidden: jax.Array) -> jax.Array:
        return self.final_norm(hidden)
