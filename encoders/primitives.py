"""The arithmetic that every layer of the model is built from: products, norms, attention, relative positions.

Encoders (this room) and the decoder (`reader`) share these parts, so that speed and precision are decided in one place.
Every product takes its operands in the compute dtype and accumulates in float32
(`preferred_element_type=float32`): on CPUs with bfloat16 instructions this is the fast path, about twice float32 and
almost three times a bfloat16 product that also returns bfloat16. Its gradient is defined here because the one JAX
derives would multiply a float32 cotangent by a bfloat16 operand and leave that path. With dtype float32 everything is
exact float32 on every device (`Precision.HIGHEST` forbids TF32 and bfloat16 passes).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

MASKED = -1e9  # additive bias of a key that must not be seen; finite, so a fully masked row stays free of NaN


def _labels(spec: str) -> tuple[str, str, str]:
    operands, result = spec.split("->")
    left, right = operands.split(",")
    return left, right, result


def _product(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(spec, a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _canonical_product(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`_product` as one batched matrix product, [batch, rows, inner] x [batch, inner, columns], for gradients.

    XLA's CPU backend cannot run some bfloat16 products with float32 results in the order einsum gives them, such as
    "bshd,bhst->bthd" in the gradient of attention. The barrier keeps it from folding the transpositions back in.
    """
    left, right, result = _labels(spec)
    if result[-1] in left:  # the result must come out in its own order, or its transposition is folded in as well
        left, right, a, b = right, left, b, a
    batch = [label for label in left if label in right and label in result]
    inner = [label for label in left if label in right and label not in result]
    rows = [label for label in left if label not in right]
    columns = [label for label in right if label not in left]
    size = dict(zip(left, a.shape, strict=True)) | dict(zip(right, b.shape, strict=True))

    def merged(x: jax.Array, labels: str, *groups: list[str]) -> jax.Array:
        ordered = x.transpose([labels.index(label) for group in groups for label in group])
        laid_out: jax.Array = jax.lax.optimization_barrier(  # type: ignore[no-untyped-call]
            ordered.reshape([math.prod(size[label] for label in group) for group in groups])
        )
        return laid_out

    product = jax.lax.dot_general(
        merged(a, left, batch, rows, inner),
        merged(b, right, batch, inner, columns),
        (((2,), (1,)), ((0,), (0,))),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    order = batch + rows + columns
    return product.reshape([size[label] for label in order]).transpose([order.index(label) for label in result])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _contract(spec: str, a: jax.Array, b: jax.Array, dtype: np.dtype[Any]) -> jax.Array:
    return _product(spec, a.astype(dtype), b.astype(dtype))


def _contract_forward(
    spec: str, a: jax.Array, b: jax.Array, dtype: np.dtype[Any]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _contract(spec, a, b, dtype), (a, b)


def _contract_backward(
    spec: str, dtype: np.dtype[Any], saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    a, b = saved
    left, right, result = _labels(spec)
    g = cotangent.astype(dtype)
    product = _product if dtype == np.float32 else _canonical_product
    grad_a = product(f"{result},{right}->{left}", g, b.astype(dtype))
    grad_b = product(f"{left},{result}->{right}", a.astype(dtype), g)
    return grad_a.astype(a.dtype), grad_b.astype(b.dtype)


_contract.defvjp(_contract_forward, _contract_backward)


def contract(spec: str, a: jax.Array, b: jax.Array, *, dtype: DTypeLike) -> jax.Array:
    """`einsum(spec, a, b)` with operands cast to `dtype`, accumulated and returned in float32.

    `spec` names two operands and a result ("bshd,bthd->bhst"); every label occurs in at least two of the three, as in
    any product without a bare sum, so that the gradient is again a product in `dtype`.
    """
    return _contract(spec, a, b, np.dtype(dtype))


def dot(x: jax.Array, kernel: jax.Array, *, dtype: DTypeLike, out_dtype: DTypeLike | None = None) -> jax.Array:
    """x [..., K] @ kernel [K, N] -> [..., N]: operands in `dtype`, float32 accumulation, result in `out_dtype`.

    `out_dtype` defaults to `dtype`; pass float32 where the result feeds a norm, a softmax or the residual stream.
    """
    rows = math.prod(x.shape[:-1])
    product = contract("mk,kn->mn", x.reshape(rows, x.shape[-1]), kernel, dtype=dtype)
    return product.reshape(*x.shape[:-1], kernel.shape[-1]).astype(dtype if out_dtype is None else out_dtype)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout of `x` at `rate`; the identity when `key` is None or the rate is 0."""
    if key is None or rate == 0.0:
        return x
    keep = _noise(key, x.shape) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def _noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform uint32 from a key: MurmurHash3's finaliser, twice, over each element's number.

    Good enough to drop by, and fused with what it is used for: on two CPU cores dropout of 5.5 million numbers takes
    1.0 ms so, 19 ms with JAX's hardware-friendly generator (bytes of it) and 58 ms with a float from it for each.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    hashed: jax.Array = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape) ^ first
    for salt in (second, jnp.uint32(0)):
        hashed = (hashed ^ (hashed >> 16)) * jnp.uint32(0x85EBCA6B)
        hashed = (hashed ^ (hashed >> 13)) * jnp.uint32(0xC2B2AE35)
        hashed = (hashed ^ (hashed >> 16)) + salt
    return hashed


class Linear(nnx.Module):
    """An affine map: `kernel` [in, out] and, when asked for, `bias` [out], both float32 until cast by a loader."""

    def __init__(
        self, inputs: int, outputs: int, *, rngs: nnx.Rngs, bias: bool = False, stddev: float | None = None
    ) -> None:
        deviation = inputs**-0.5 if stddev is None else stddev
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (inputs, outputs), jnp.float32) * deviation)
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32)) if bias else None

    def __call__(self, x: jax.Array, *, dtype: DTypeLike, out_dtype: DTypeLike | None = None) -> jax.Array:
        """x [..., in] -> [..., out], as `dot`; the bias is added in float32 before the result is cast."""
        if self.bias is None:
            return dot(x, self.kernel[...], dtype=dtype, out_dtype=out_dtype)
        product = dot(x, self.kernel[...], dtype=dtype, out_dtype=jnp.float32)
        return (product + self.bias[...].astype(jnp.float32)).astype(dtype if out_dtype is None else out_dtype)


class RMSNorm(nnx.Module):
    """T5's norm: scale by the root mean square, no mean and no bias. `scale` [width]; statistics in float32."""

    def __init__(self, width: int, eps: float) -> None:
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array, *, out_dtype: DTypeLike | None = None) -> jax.Array:
        """x [..., width] -> the same shape in `out_dtype` (default: the dtype of x)."""
        wide = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        normed = wide * inverse * self.scale[...].astype(jnp.float32)
        return normed.astype(x.dtype if out_dtype is None else out_dtype)


class LayerNorm(nnx.Module):
    """BERT's norm: zero mean, unit variance, then `scale` and `bias` [width]; statistics in float32."""

    def __init__(self, width: int, eps: float) -> None:
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array, *, out_dtype: DTypeLike | None = None) -> jax.Array:
        """x [..., width] -> the same shape in `out_dtype` (default: the dtype of x)."""
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + self.eps)
        normed = centred * inverse * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)
        return normed.astype(x.dtype if out_dtype is None else out_dtype)


def _one_sided_buckets(num_buckets: int, max_distance: int) -> np.ndarray:
    """Bucket of every distance 0..max_distance (the last stands for all beyond), as T5 computes them in float32."""
    exact = num_buckets // 2
    distance = np.arange(max_distance + 1, dtype=np.float32)
    ratio = np.log(np.maximum(distance, 1) / np.float32(exact)) / np.float32(math.log(max_distance / exact))
    coarse = exact + (ratio * np.float32(num_buckets - exact)).astype(np.int32)
    return np.where(distance < exact, distance.astype(np.int32), np.minimum(coarse, num_buckets - 1)).astype(np.int32)


def relative_position_bucket(
    distance: jax.Array, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> jax.Array:
    """T5's bucket of `distance` = key position - query position (any integer shape) -> int32 of that shape.

    Buckets come from a table made once on the host, so that a boundary such as distance 64 cannot fall to another
    side because a device rounds its logarithm differently.
    """
    distance = jnp.asarray(distance, jnp.int32)
    offset = jnp.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = jnp.where(distance > 0, num_buckets, 0).astype(jnp.int32)
        magnitude = jnp.abs(distance)
    else:
        magnitude = jnp.maximum(-distance, 0)
    table = jnp.asarray(_one_sided_buckets(num_buckets, max_distance))
    return offset + table[jnp.minimum(magnitude, max_distance)]


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | Sequence[jax.Array] | None,
    *,
    dtype: DTypeLike,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention without scaling: q [B,S,H,Dh]; k, v [B,T,Hkv,Dh] with Hkv 1 or H -> [B,S,H,Dh] in `dtype`.

    `bias` broadcasts to [B,H,S,T] and is added to the float32 scores; masked keys carry `MASKED`. Several terms (a key
    mask and a relative bias, say) are given as a sequence, so that their sum is never stored at full size. A term of
    [N,H,S,T] with N a divisor of B is one for every B / N rows that follow each other. T5 does not
    divide by sqrt(Dh); BERT scales its queries before. `key` with `dropout_rate` drops attention weights in training.
    """
    shared = k.shape[2] == 1 and q.shape[2] != 1
    rows, queries, heads, size = q.shape
    if shared:
        scores = contract("bshd,btd->bhst", q, k[:, :, 0], dtype=dtype)
    else:
        # Heads go first by hand: left to einsum, XLA's CPU backend takes 1.3 (bfloat16) to 3 (float32) times as long.
        q, k, v = (x.astype(dtype).transpose(0, 2, 1, 3).reshape(rows * heads, -1, size) for x in (q, k, v))
        scores = contract("nsd,ntd->nst", q, k, dtype=dtype).reshape(rows, heads, queries, -1)
    for term in () if bias is None else (bias,) if isinstance(bias, jax.Array) else bias:
        if term.ndim == 4 and term.shape[0] not in (1, scores.shape[0]):
            scores = (scores.reshape(term.shape[0], -1, *scores.shape[1:]) + term[:, None]).reshape(scores.shape)
        else:
            scores = scores + term
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    weights = dropout(weights, dropout_rate, key)
    if shared:
        flat = contract("bnt,btd->bnd", weights.reshape(rows, heads * queries, -1), v[:, :, 0], dtype=dtype)
    else:
        flat = contract("nst,ntd->nsd", weights.reshape(rows * heads, queries, -1), v, dtype=dtype)
    return flat.reshape(rows, heads, queries, -1).transpose(0, 2, 1, 3).astype(dtype)
