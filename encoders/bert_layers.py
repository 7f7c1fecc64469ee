"""BERT's encoder as a layered encoder (arXiv 1810.04805; MiniLM and its relatives have the same layers).

Post-norm layers with biases, scores scaled by 1/sqrt(head width), exact GELU, learnt absolute positions. Those are
added once, in `embed`: memory carries its positions in its values, and the upper layers need none.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from .families.bert import BertConfig
from .layered import Context, LayerStack, layer_key, mask_bias, merge_heads, split_heads
from .primitives import LayerNorm, Linear, attend, dropout

INITIAL_STDDEV = 0.02  # BERT's own


def exact_gelu(x: jax.Array) -> jax.Array:
    """x * Φ(x), any shape, float32, by erf as Hugging Face has it: half the time on CPU of `jax.nn.gelu`'s erfc."""
    return x * 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


class BertAttention(nnx.Module):
    """Self-attention: q, k, v, o [D, D] with biases."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs) -> None:
        inner = config.num_heads * config.d_kv
        self.heads, self.scale = config.num_heads, config.d_kv**-0.5
        self.q, self.k, self.v = (
            Linear(config.d_model, inner, rngs=rngs, bias=True, stddev=INITIAL_STDDEV) for _ in range(3)
        )
        self.o = Linear(inner, config.d_model, rngs=rngs, bias=True, stddev=INITIAL_STDDEV)

    def __call__(
        self, x: jax.Array, context: Context, *, dtype: DTypeLike, dropout_rate: float, key: jax.Array | None
    ) -> jax.Array:
        """x [B,S,D] -> float32 [B,S,D]."""
        q = (self.q(x, dtype=dtype, out_dtype=jnp.float32) * self.scale).astype(dtype)
        k, v = self.k(x, dtype=dtype), self.v(x, dtype=dtype)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        mixed = attend(q, k, v, context.terms(), dtype=dtype, dropout_rate=dropout_rate, key=key)
        return self.o(merge_heads(mixed), dtype=dtype, out_dtype=jnp.float32)


class BertMlp(nnx.Module):
    """gelu(x wi + b) wo + b, with the exact (erf) GELU."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs) -> None:
        self.wi = Linear(config.d_model, config.d_ff, rngs=rngs, bias=True, stddev=INITIAL_STDDEV)
        self.wo = Linear(config.d_ff, config.d_model, rngs=rngs, bias=True, stddev=INITIAL_STDDEV)

    def __call__(self, x: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """x [B,S,D] -> float32 [B,S,D]."""
        inner = exact_gelu(self.wi(x, dtype=dtype, out_dtype=jnp.float32))
        return self.wo(inner, dtype=dtype, out_dtype=jnp.float32)


class BertLayer(nnx.Module):
    """norm(x + attention(x)), then norm(x + mlp(x))."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs) -> None:
        self.attention = BertAttention(config, rngs=rngs)
        self.attention_norm = LayerNorm(config.d_model, config.layer_norm_eps)
        self.mlp = BertMlp(config, rngs=rngs)
        self.mlp_norm = LayerNorm(config.d_model, config.layer_norm_eps)

    def __call__(
        self, hidden: jax.Array, context: Context, *, dtype: DTypeLike, dropout_rate: float, key: jax.Array | None
    ) -> jax.Array:
        """hidden float32 [B,S,D] -> the same."""
        keys = [layer_key(key, part) for part in range(3)]
        update = self.attention(hidden, context, dtype=dtype, dropout_rate=dropout_rate, key=keys[0])
        hidden = self.attention_norm(hidden + dropout(update, dropout_rate, keys[1]))
        update = self.mlp(hidden, dtype=dtype)
        return self.mlp_norm(hidden + dropout(update, dropout_rate, keys[2]))


class BertEncoder(LayerStack):
    """A `LayeredEncoder`; see there for shapes. `layer_range` are the layers this instance has (default: all)."""

    def __init__(
        self, config: BertConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32, layer_range: range | None = None
    ) -> None:
        self.config = config
        self.dtype = dtype
        self.layer_range = range(config.num_layers) if layer_range is None else layer_range

        def table(rows: int) -> nnx.Param[jax.Array]:
            return nnx.Param(jax.random.normal(rngs.params(), (rows, config.d_model), jnp.float32) * INITIAL_STDDEV)

        self.embedding = table(config.vocab_size)
        self.position_embedding = table(config.max_positions)
        self.type_embedding = table(config.type_vocab_size)
        self.embedding_norm = LayerNorm(config.d_model, config.layer_norm_eps)
        self.layers = nnx.List([BertLayer(config, rngs=rngs) for _ in self.layer_range])

    def embed(self, tokens: jax.Array) -> jax.Array:
        length = tokens.shape[1]
        if length > self.position_embedding[...].shape[0]:
            raise ValueError(f"{length} tokens, but the encoder has {self.position_embedding[...].shape[0]} positions")
        words = self.embedding[...][tokens].astype(jnp.float32)
        places = self.position_embedding[...][:length].astype(jnp.float32)
        return self.embedding_norm(words + places + self.type_embedding[...][0].astype(jnp.float32))

    def context(self, mask: jax.Array, positions: jax.Array | None = None) -> Context:
        return Context(mask=mask_bias(mask))

    def finish(self, hidden: jax.Array) -> jax.Array:
        return hidden
