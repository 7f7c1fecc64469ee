"""`int8`: symmetric quantisation with a scale for each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from .array_bytes import from_bytes, to_bytes
from .codec import check_width
from .codec_registry import register_codec

if TYPE_CHECKING:
    import jax
    from jax.typing import DTypeLike

_SCALE_BYTES = 4
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Int8Codec:
    """Symmetric int8 with one float32 scale per token: D bytes of values, then 4 bytes of scale (little-endian).

    scale = max|x| / 127, so |decode(encode(x)) - x| <= scale / 2 (up to float32 rounding) for every finite token. A
    token whose scale would be below float32's smallest normal number becomes zeros. A token with a NaN or an infinity
    decodes to NaN throughout: visible, never a plausible number.
    """

    width: int

    name: ClassVar[str] = "int8"
    _MAX: ClassVar[float] = 127.0

    @property
    def code_bytes(self) -> int:
        return self.width + _SCALE_BYTES

    def encode(self, x: jax.Array, ids: jax.Array) -> jax.Array:
        import jax
        import jax.numpy as jnp

        check_width(x.shape[-1], self.width, "representation")
        values = x.astype(jnp.float32)
        scale = jnp.max(jnp.abs(values), axis=-1, keepdims=True) / self._MAX
        # Flush by hand: whether XLA flushes subnormals depends on the device, and stored bytes must not.
        scale = jnp.where(scale < _SMALLEST, 0.0, scale)
        scale = jnp.where(jnp.isfinite(scale), scale, jnp.nan)
        usable = scale > 0
        levels = jnp.where(usable, jnp.round(values / jnp.where(usable, scale, 1.0)), 0.0)
        quantised = jnp.clip(levels, -self._MAX, self._MAX).astype(jnp.int8)
        return jnp.concatenate([jax.lax.bitcast_convert_type(quantised, jnp.uint8), to_bytes(scale)], axis=-1)

    def decode(self, codes: jax.Array, dtype: DTypeLike) -> jax.Array:
        import jax
        import jax.numpy as jnp

        check_width(codes.shape[-1], self.code_bytes, "code")
        values = jax.lax.bitcast_convert_type(codes[..., : self.width], jnp.int8)
        scale = from_bytes(codes[..., self.width :], jnp.float32)
        return (values.astype(jnp.float32) * scale).astype(dtype)

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "width": self.width}

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        return {}


register_codec(
    Int8Codec.name,
    code_bytes=lambda spec: spec.width + _SCALE_BYTES,
    load=lambda spec, tables: Int8Codec(spec.width),
)
