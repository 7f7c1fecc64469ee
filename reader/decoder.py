"""The T5-style decoder that reads the fused passages and writes the answer.

Fusion-in-decoder (arXiv 2007.01282): cross-attention runs over the concatenation of all kept passages. Two ways through
the same weights: `teach` for a known answer (training, scoring), and `step` for one token at a time, with the keys and
values of the passages computed once per question (`cross`) and those of the answer so far in a fixed-size cache.
FiDO's two reliefs of memory bandwidth (arXiv 2212.08153) are configuration: multi-query attention, and cross-attention
in every n-th layer only.

What one step costs is reading weights and passages' keys and values from memory, so their layout is chosen for that:
keys and values lie transposed, [.., d_kv, positions], which makes both products of a step row-major, without a copy.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ..encoders.layered import layer_key, mask_bias, merge_heads, split_heads
from ..encoders.primitives import MASKED, Linear, RMSNorm, attend, contract, dot, dropout, relative_position_bucket
from ..encoders.t5_layers import T5Mlp
from .config import DecoderConfig
from .copying import CopyHead, MixtureLogWeights, mixture_log_probs
from .fusion import Fused
from .live_encoder import take_rows


class CrossMemory(NamedTuple):
    """Passages as the cross-attention layers read them; shared by all beams. One entry a cross-attention layer.

    `keys`, `values` [B, Hkv, Dh, M] in the compute dtype (M = fused positions); `bias` float32 [B,1,1,M] hides padding.
    Where the decoder copies, `copy_keys` [B,M,W] in the compute dtype, `tokens` int32 [B,M], and `prior` as in `Fused`.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    bias: jax.Array
    copy_keys: jax.Array | None = None
    tokens: jax.Array | None = None
    prior: jax.Array | None = None


class AnswerCache(NamedTuple):
    """Keys and values of the answer so far. One entry a layer, float32 [B, N, Hkv, T, Dh] for N rows a question."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]

    def reorder(self, parents: jax.Array) -> AnswerCache:
        """The cache of rows `parents` int32 [B,N] in place of rows 0..N-1 (beam search moves its beams)."""

        def move(caches: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            return tuple(take_rows(cache, parents) for cache in caches)

        return AnswerCache(move(self.keys), move(self.values))


class TeacherForcingOutput(NamedTuple):
    """What teacher forcing gives, at place t of T for the token after input t.

    Attributes:
        logits: float32 [B,T,V] over the vocabulary.
        mixture: the mixture's log weights where the decoder copies, else None.
        attention_log_probs: log attention weights over fused positions, float32 [B,heads,T,M], without attention
            dropout: one entry a cross-attention layer, then one of one head where the decoder copies; empty if unasked.
    """

    logits: jax.Array
    mixture: MixtureLogWeights | None
    attention_log_probs: tuple[jax.Array, ...]


class DecoderAttention(nnx.Module):
    """q [D, H*Dh], k and v [D, Hkv*Dh], o [H*Dh, D], without biases; self- or cross-attention."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs) -> None:
        inner = config.num_heads * config.d_kv
        self.heads, self.kv_heads = config.num_heads, config.kv_heads
        self.q = Linear(config.d_model, inner, rngs=rngs, stddev=(config.d_model * config.d_kv) ** -0.5)
        self.k = Linear(config.d_model, config.kv_heads * config.d_kv, rngs=rngs)
        self.v = Linear(config.d_model, config.kv_heads * config.d_kv, rngs=rngs)
        self.o = Linear(inner, config.d_model, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        source: jax.Array,
        bias: tuple[jax.Array, ...],
        *,
        dtype: DTypeLike,
        dropout_rate: float,
        key: jax.Array | None,
    ) -> jax.Array:
        """x [B,T,D] attends to source [B,S,D] under additive terms broadcastable to [B,H,T,S] -> float32 [B,T,D]."""
        q = split_heads(self.q(x, dtype=dtype), self.heads)
        k = split_heads(self.k(source, dtype=dtype), self.kv_heads)
        v = split_heads(self.v(source, dtype=dtype), self.kv_heads)
        mixed = attend(q, k, v, bias, dtype=dtype, dropout_rate=dropout_rate, key=key)
        return self.o(merge_heads(mixed), dtype=dtype, out_dtype=jnp.float32)

    def log_weights(
        self, x: jax.Array, source: jax.Array, bias: jax.Array, *, heads: int, dtype: DTypeLike
    ) -> jax.Array:
        """What the first `heads` heads attend to, without dropout: natural logarithm, float32 [B,heads,T,S]."""
        size = self.q.kernel.shape[1] // self.heads
        own = min(heads, self.kv_heads)
        q = split_heads(contract("btd,dh->bth", x, self.q.kernel[...][:, : heads * size], dtype=dtype), heads)
        k = split_heads(contract("bsd,dh->bsh", source, self.k.kernel[...][:, : own * size], dtype=dtype), own)
        k = jnp.broadcast_to(k, (*k.shape[:2], heads, size))
        return jax.nn.log_softmax(contract("bthd,bshd->bhts", q, k, dtype=dtype) + bias, axis=-1)

    def transposed(self, source: jax.Array, *, dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
        """source [B,M,D] -> keys and values [B,Hkv,Dh,M] in `dtype`."""

        def project(kernel: jax.Array) -> jax.Array:
            product = contract("bmd,dh->bmh", source, kernel, dtype=dtype)
            batch, places = product.shape[:2]
            return jnp.swapaxes(product, 1, 2).astype(dtype).reshape(batch, self.kv_heads, -1, places)

        return project(self.k.kernel[...]), project(self.v.kernel[...])

    def step_across(
        self, x: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array, *, dtype: DTypeLike
    ) -> jax.Array:
        """x [B,N,D], one token in each of N rows a question, over keys, values [B,Hkv,Dh,M] -> float32 [B,N,D]."""
        batch, rows, _ = x.shape
        q = split_heads(self.q(x, dtype=dtype), self.heads)  # [B,N,H,Dh]
        if self.kv_heads == 1:
            q = q.reshape(batch, 1, rows * self.heads, -1)
        else:
            q = q.transpose(0, 2, 1, 3)
        scores = contract("bhnd,bhdm->bhnm", q, keys, dtype=dtype) + bias
        weights = jax.nn.softmax(scores, axis=-1)
        mixed = contract("bhdm,bhnm->bhdn", values, weights, dtype=dtype)
        if self.kv_heads == 1:
            mixed = mixed.reshape(batch, -1, rows, self.heads).transpose(0, 2, 3, 1)
        else:
            mixed = mixed.transpose(0, 3, 1, 2)
        return self.o(merge_heads(mixed), dtype=dtype, out_dtype=jnp.float32)

    def step_within(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        position: jax.Array,
        bias: jax.Array,
        *,
        dtype: DTypeLike,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B,N,D] at `position` over the answer so far, itself included.

        keys, values float32 [B,N,Hkv,T,Dh], bias [H,T] (future places masked) -> float32 [B,N,D], new keys and values.
        """
        batch, rows, _ = x.shape

        def place(cache: jax.Array, part: Linear) -> jax.Array:
            new = part(x, dtype=dtype).astype(jnp.float32).reshape(batch, rows, self.kv_heads, 1, -1)
            return jax.lax.dynamic_update_slice_in_dim(cache, new, position, axis=3)

        keys, values = place(keys, self.k), place(values, self.v)
        q = split_heads(self.q(x, dtype=dtype), self.heads).reshape(
            batch, rows, self.kv_heads, self.heads // self.kv_heads, -1
        )
        scores = contract("bngrd,bngtd->bngrt", q, keys, dtype=jnp.float32)
        scores = scores + bias.reshape(self.kv_heads, self.heads // self.kv_heads, -1)
        weights = jax.nn.softmax(scores, axis=-1)
        mixed = contract("bngrt,bngtd->bngrd", weights, values, dtype=jnp.float32)
        update = self.o(mixed.reshape(batch, rows, -1), dtype=dtype, out_dtype=jnp.float32)
        return update, keys, values


class DecoderLayer(nnx.Module):
    """Self-attention, cross-attention (where this layer has it) and feed-forward, each behind its own norm."""

    def __init__(self, config: DecoderConfig, number: int, *, rngs: nnx.Rngs) -> None:
        across = config.has_cross_attention(number)
        self.self_norm = RMSNorm(config.d_model, config.layer_norm_eps)
        self.self_attention = DecoderAttention(config, rngs=rngs)
        self.cross_norm = RMSNorm(config.d_model, config.layer_norm_eps) if across else None
        self.cross_attention = DecoderAttention(config, rngs=rngs) if across else None
        self.mlp_norm = RMSNorm(config.d_model, config.layer_norm_eps)
        self.mlp = T5Mlp(config.d_model, config.d_ff, gated=config.gated, rngs=rngs)

    def feed_forward(
        self, hidden: jax.Array, *, dtype: DTypeLike, dropout_rate: float = 0.0, key: jax.Array | None = None
    ) -> jax.Array:
        """hidden float32 [B,T,D] -> the same, with the feed-forward part added."""
        update = self.mlp(
            self.mlp_norm(hidden, out_dtype=dtype), dtype=dtype, dropout_rate=dropout_rate, key=layer_key(key, 4)
        )
        return hidden + dropout(update, dropout_rate, layer_key(key, 5))


class Decoder(nnx.Module):
    """The decoder stack. `dtype` is the compute dtype of products; the residual stream is float32.

    Where the configuration shares the encoder's word embeddings, every call takes them as `table` [V,D]; else `table`
    is None and the decoder has its own. `memory_projection` exists where the encoder's width is not the decoder's.
    """

    def __init__(
        self, config: DecoderConfig, *, memory_width: int, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32
    ) -> None:
        self.config, self.dtype = config, dtype
        self.embedding = (
            None
            if config.shared_embedding
            else nnx.Param(jax.random.normal(rngs.params(), (config.vocab_size, config.d_model), jnp.float32))
        )
        self.memory_projection = (
            None if memory_width == config.d_model else Linear(memory_width, config.d_model, rngs=rngs)
        )
        self.relative_bias = nnx.Param(
            jax.random.normal(rngs.params(), (config.relative_buckets, config.num_heads), jnp.float32)
            * config.d_model**-0.5
        )
        self.layers = nnx.List([DecoderLayer(config, number, rngs=rngs) for number in range(config.num_layers)])
        self.final_norm = RMSNorm(config.d_model, config.layer_norm_eps)
        self.lm_head = None if config.tied_head else Linear(config.d_model, config.vocab_size, rngs=rngs)
        self.copy = CopyHead(config, rngs=rngs) if config.copy_width else None

    def logits(
        self,
        tokens: jax.Array,
        fused: Fused,
        table: jax.Array | None,
        *,
        dropout_rate: float = 0.0,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher-forced logits float32 [B,T,V] after each decoder input (logarithms of probabilities where the decoder
        copies). Arguments as in `teach`."""
        taught = self.teach(tokens, fused, table, dropout_rate=dropout_rate, key=key)
        return (
            taught.logits
            if taught.mixture is None
            else mixture_log_probs(taught.logits, taught.mixture, _needed(fused.tokens))
        )

    def teach(
        self,
        tokens: jax.Array,
        fused: Fused,
        table: jax.Array | None,
        *,
        watched: int = 0,
        dropout_rate: float = 0.0,
        key: jax.Array | None = None,
    ) -> TeacherForcingOutput:
        """Teacher forcing: what the decoder makes of each input token. See `TeacherForcingOutput`.

        `tokens` int32 [B,T] (start token first), `fused` the passages, with their tokens where the decoder copies;
        `key` turns dropout on. `watched` > 0 asks for what the first `watched` heads of every cross-attention layer
        attend to.
        """
        length = tokens.shape[1]
        places = jnp.arange(length, dtype=jnp.int32)
        distance = places[None, :] - places[:, None]
        causal = jnp.where(distance > 0, MASKED, 0.0).astype(jnp.float32)
        within = (self._relative(distance) + causal,)
        across = (mask_bias(fused.mask),)
        source = self._project(fused.hidden)
        attended: list[jax.Array] = []
        hidden = dropout(self._embed(tokens, table), dropout_rate, layer_key(key, self.config.num_layers))
        for number, layer in enumerate(self.layers):
            own = layer_key(key, number)
            normed = layer.self_norm(hidden, out_dtype=self.dtype)
            update = layer.self_attention(
                normed, normed, within, dtype=self.dtype, dropout_rate=dropout_rate, key=layer_key(own, 0)
            )
            hidden = hidden + dropout(update, dropout_rate, layer_key(own, 1))
            if layer.cross_attention is not None and layer.cross_norm is not None:
                normed = layer.cross_norm(hidden, out_dtype=self.dtype)
                update = layer.cross_attention(
                    normed, source, across, dtype=self.dtype, dropout_rate=dropout_rate, key=layer_key(own, 2)
                )
                hidden = hidden + dropout(update, dropout_rate, layer_key(own, 3))
                if watched:
                    attention = layer.cross_attention
                    attended.append(attention.log_weights(normed, source, across[0], heads=watched, dtype=self.dtype))
            hidden = layer.feed_forward(hidden, dtype=self.dtype, dropout_rate=dropout_rate, key=own)
        last = layer_key(key, self.config.num_layers + 1)
        hidden = dropout(self.final_norm(hidden), dropout_rate, last)
        mixture = None
        if self.copy is not None:
            keys = self.copy.keys(source, dtype=self.dtype)
            mixture = self.copy.mixture_log_weights(
                hidden, keys, _needed(fused.tokens), tokens, fused.prior, dtype=self.dtype
            )
            if watched:
                attended.append(mixture.positions[:, None])
        return TeacherForcingOutput(self._head(hidden, table), mixture, tuple(attended))

    def cross(self, fused: Fused) -> CrossMemory:
        """The passages' keys and values, once per question; with their tokens where the decoder copies."""
        source = self._project(fused.hidden)
        pairs = [
            layer.cross_attention.transposed(source, dtype=self.dtype)
            for layer in self.layers
            if layer.cross_attention is not None
        ]
        bias = mask_bias(fused.mask)
        keys, values = tuple(k for k, _ in pairs), tuple(v for _, v in pairs)
        if self.copy is None:
            return CrossMemory(keys, values, bias)
        copy_keys = self.copy.keys(source, dtype=self.dtype)
        return CrossMemory(keys, values, bias, copy_keys, _needed(fused.tokens), fused.prior)

    def empty_cache(self, batch: int, rows: int, length: int) -> AnswerCache:
        """A cache for `rows` answers of at most `length` tokens to each of `batch` questions."""
        shape = (batch, rows, self.config.kv_heads, length, self.config.d_kv)
        empty = tuple(jnp.zeros(shape, jnp.float32) for _ in self.layers)
        return AnswerCache(empty, empty)

    def step(
        self, tokens: jax.Array, position: jax.Array, cache: AnswerCache, cross: CrossMemory, table: jax.Array | None
    ) -> tuple[jax.Array, AnswerCache]:
        """One token further: tokens int32 [B,N] at `position` (int32 scalar, 0 for the start token).

        Returns float32 logits [B,N,V] of the next token (a decoder that copies: logarithms of probabilities) and the
        cache with this one added. On CPUs N should be 2 or more: XLA's products with a single row run several times
        slower than with two.
        """
        length = cache.keys[0].shape[3]
        distance = jnp.arange(length, dtype=jnp.int32) - position
        future = jnp.where(distance > 0, MASKED, 0.0).astype(jnp.float32)
        bias = self._relative(distance[None])[:, 0] + future  # [H,T]
        hidden = self._embed(tokens, table)
        keys, values, crossed = [], [], 0
        for layer, old_keys, old_values in zip(self.layers, cache.keys, cache.values, strict=True):
            normed = layer.self_norm(hidden, out_dtype=self.dtype)
            update, new_keys, new_values = layer.self_attention.step_within(
                normed, old_keys, old_values, position, bias, dtype=self.dtype
            )
            keys.append(new_keys)
            values.append(new_values)
            hidden = hidden + update
            if layer.cross_attention is not None and layer.cross_norm is not None:
                normed = layer.cross_norm(hidden, out_dtype=self.dtype)
                hidden = hidden + layer.cross_attention.step_across(
                    normed, cross.keys[crossed], cross.values[crossed], cross.bias, dtype=self.dtype
                )
                crossed += 1
            hidden = layer.feed_forward(hidden, dtype=self.dtype)
        hidden = self.final_norm(hidden)
        logits = self._head(hidden, table)
        if self.copy is not None and cross.copy_keys is not None:
            where = _needed(cross.tokens)
            mixture = self.copy.mixture_log_weights(
                hidden, cross.copy_keys, where, tokens, cross.prior, dtype=self.dtype
            )
            logits = mixture_log_probs(logits, mixture, where)
        return logits, AnswerCache(tuple(keys), tuple(values))

    def _relative(self, distance: jax.Array) -> jax.Array:
        """distance int32 [S,T] (key minus query) -> T5's bias float32 [H,S,T]."""
        bucket = relative_position_bucket(
            distance,
            bidirectional=False,
            num_buckets=self.config.relative_buckets,
            max_distance=self.config.relative_max_distance,
        )
        return self.relative_bias[...].astype(jnp.float32)[bucket].transpose(2, 0, 1)

    def _table(self, table: jax.Array | None) -> jax.Array:
        if self.embedding is not None:
            return self.embedding[...]
        if table is None:
            raise ValueError("this decoder shares the encoder's word embeddings: pass them as `table`")
        return table

    def _embed(self, tokens: jax.Array, table: jax.Array | None) -> jax.Array:
        return self._table(table)[tokens].astype(jnp.float32) * self.config.embedding_scale

    def _project(self, memory: jax.Array) -> jax.Array:
        # One cast here, or every layer's two projections would each read the float32 stream and cast it again.
        memory = memory.astype(self.dtype)
        return memory if self.memory_projection is None else self.memory_projection(memory, dtype=self.dtype)

    def _head(self, hidden: jax.Array, table: jax.Array | None) -> jax.Array:
        hidden = hidden * self.config.head_scale
        if self.lm_head is None:
            return contract("bnd,vd->bnv", hidden, self._table(table), dtype=self.dtype)
        return dot(hidden, self.lm_head.kernel[...], dtype=self.dtype, out_dtype=jnp.float32)


def _needed(tokens: jax.Array | None) -> jax.Array:
    if tokens is None:
        raise ValueError("this decoder copies from the passages: pass it their tokens")
    return tokens
