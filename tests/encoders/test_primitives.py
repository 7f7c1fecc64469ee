"""Products accumulate in float32 and have gradients in the compute dtype, in every order that layers use."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glimmer.encoders.primitives import attend, contract, dropout

SIZES = {"b": 2, "s": 6, "t": 10, "h": 3, "d": 8, "m": 12, "k": 8, "n": 5}
SPECS = ("mk,kn->mn", "bshd,bthd->bhst", "bhst,bthd->bshd", "bshd,btd->bhst", "bnt,btd->bnd")


def operands(spec: str) -> tuple[jax.Array, jax.Array]:
    draw = np.random.default_rng(0)
    left, right = spec.split("->")[0].split(",")
    first, second = (draw.standard_normal([SIZES[label] for label in labels], np.float32) for labels in (left, right))
    return jnp.asarray(first), jnp.asarray(second)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("dtype", "within"), [(jnp.float32, 1e-5), (jnp.bfloat16, 3e-2)], ids=["float32", "bfloat16"])
def test_gradients_of_a_product_are_those_of_plain_einsum(spec: str, dtype: jnp.dtype, within: float) -> None:
    a, b = operands(spec)

    def ours(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.square(contract(spec, a, b, dtype=dtype)).sum()

    def plain(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.square(jnp.einsum(spec, a, b, precision="highest")).sum()

    for got, wanted in zip(jax.jit(jax.grad(ours, (0, 1)))(a, b), jax.grad(plain, (0, 1))(a, b), strict=True):
        assert got.dtype == wanted.dtype
        assert float(jnp.linalg.norm(got - wanted) / jnp.linalg.norm(wanted)) < within


@pytest.mark.parametrize("heads", [1, 3], ids=["multi-query", "multi-head"])
def test_attention_has_bfloat16_gradients_close_to_float32(heads: int) -> None:
    draw = np.random.default_rng(1)
    q = jnp.asarray(draw.standard_normal((2, 6, 3, 8), np.float32))
    k, v = (jnp.asarray(draw.standard_normal((2, 10, heads, 8), np.float32)) for _ in range(2))

    def loss(q: jax.Array, k: jax.Array, v: jax.Array, dtype: str) -> jax.Array:
        return jnp.square(attend(q, k, v, None, dtype=dtype).astype(jnp.float32)).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)
    for fast, exact in zip(gradient(q, k, v, "bfloat16"), gradient(q, k, v, "float32"), strict=True):
        assert float(jnp.linalg.norm(fast - exact) / jnp.linalg.norm(exact)) < 5e-2


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_drops_its_share_evenly_and_keeps_the_mean(rate: float) -> None:
    """Of two million numbers: the share to four standard deviations, neighbours and other keys uncorrelated."""
    ones = jnp.ones((2, 1000, 1000))
    drop = jax.jit(dropout, static_argnums=1)
    kept = np.asarray(drop(ones, rate, jax.random.key(3)))
    within = 4 / np.sqrt(kept.size)
    assert np.unique(kept).tolist() == [0.0, np.float32(1 / (1 - rate))]
    assert np.mean(kept == 0) == pytest.approx(rate, abs=within)
    assert kept.mean() == pytest.approx(1.0, abs=3 * within)
    flat = kept.ravel()
    for shift in (1, 2, 7, 64, 1000, 1_000_000):
        assert abs(np.corrcoef(flat[:-shift], flat[shift:])[0, 1]) < within * 1.5
    assert abs(np.corrcoef(flat, np.asarray(drop(ones, rate, jax.random.key(4))).ravel())[0, 1]) < within
    assert np.array_equal(kept, drop(ones, rate, jax.random.key(3)))
    assert dropout(ones, rate, None) is ones
