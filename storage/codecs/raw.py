"""`float32` and `bfloat16`: the bits of a float type as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from .array_bytes import from_bytes, to_bytes
from .codec import check_width
from .codec_registry import register_codec

if TYPE_CHECKING:
    import jax
    from jax.typing import DTypeLike


@dataclass(frozen=True)
class RawCodec:
    """The bits of a float type, little-endian: exact for values of that type, which is what makes it a reference.

    NaN and infinity survive. `bfloat16` rounds float32 input to nearest even.
    """

    name: str
    width: int

    SIZES: ClassVar[dict[str, int]] = {"float32": 4, "bfloat16": 2}
    """Float types by JAX's names, with their bytes a number."""

    @property
    def code_bytes(self) -> int:
        return self.width * self.SIZES[self.name]

    def encode(self, x: jax.Array, ids: jax.Array) -> jax.Array:
        check_width(x.shape[-1], self.width, "representation")
        return to_bytes(x.astype(self.name))

    def decode(self, codes: jax.Array, dtype: DTypeLike) -> jax.Array:
        check_width(codes.shape[-1], self.code_bytes, "code")
        return from_bytes(codes, self.name).astype(dtype)

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "width": self.width}

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        return {}


for _name, _size in RawCodec.SIZES.items():
    register_codec(
        _name,
        code_bytes=lambda spec, size=_size: size * spec.width,  # type: ignore[misc]
        load=lambda spec, tables: RawCodec(spec.name, spec.width),
    )
