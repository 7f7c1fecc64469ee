"""Arrays of floats as little-endian bytes and back, traceable inside jit: what codecs are put together from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax
    from jax.typing import DTypeLike


def to_bytes(x: jax.Array) -> jax.Array:
    """[..., D] of an n-byte type -> uint8 [..., D * n], little-endian."""
    import jax
    import jax.numpy as jnp

    parts = jax.lax.bitcast_convert_type(x, jnp.uint8)
    return parts.reshape(*x.shape[:-1], x.shape[-1] * x.dtype.itemsize)


def from_bytes(codes: jax.Array, dtype: DTypeLike) -> jax.Array:
    """uint8 [..., D * n] -> [..., D] of the n-byte `dtype`."""
    import jax
    import jax.numpy as jnp

    size = jnp.dtype(dtype).itemsize
    return jax.lax.bitcast_convert_type(codes.reshape(*codes.shape[:-1], codes.shape[-1] // size, size), dtype)
