"""Codecs: how one token's representation becomes bytes, and back, inside `jax.jit`.

A memory has one codec for life. Whatever the codec, storage sees uint8 `[..., code_bytes]`, so the Zarr payload has one
dtype, and encode and decode are traced into the programs of the memory encoder and the reader. `float32` and `bfloat16`
keep the bits; `int8` keeps a scale per token. A codec with trained tables (product quantisation, MEMORY-VQ, arXiv
2308.14903) joins by registering itself in `_CODECS` and returning its tables from `tables()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax.typing import DTypeLike

from .. import DamageError, UsageError

Tables = Mapping[str, npt.NDArray[Any]]


@runtime_checkable
class Codec(Protocol):
    """Turns representations of width D into `code_bytes` bytes per token and back. Pure, traceable inside jit."""

    @property
    def name(self) -> str:
        """Name as in `--codec` and memory.json."""

    @property
    def width(self) -> int:
        """D, the representation's width."""

    @property
    def code_bytes(self) -> int:
        """Bytes per token."""

    def encode(self, x: jax.Array) -> jax.Array:
        """x: float [..., D] -> uint8 [..., code_bytes]."""

    def decode(self, codes: jax.Array, dtype: DTypeLike) -> jax.Array:
        """codes: uint8 [..., code_bytes] -> `dtype` [..., D]. All-zero codes decode to zeros."""

    def spec(self) -> dict[str, Any]:
        """What memory.json records: `name`, `width` and the codec's own settings; JSON-able."""

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays stored in `codec/tables.safetensors`; empty for codecs that need none."""


def _to_bytes(x: jax.Array) -> jax.Array:
    """[..., D] of an n-byte type -> uint8 [..., D * n], little-endian."""
    parts = jax.lax.bitcast_convert_type(x, jnp.uint8)
    return parts.reshape(*x.shape[:-1], x.shape[-1] * x.dtype.itemsize)


def _from_bytes(codes: jax.Array, dtype: DTypeLike) -> jax.Array:
    """uint8 [..., D * n] -> [..., D] of the n-byte `dtype`."""
    size = jnp.dtype(dtype).itemsize
    return jax.lax.bitcast_convert_type(codes.reshape(*codes.shape[:-1], codes.shape[-1] // size, size), dtype)


@dataclass(frozen=True)
class RawCodec:
    """The bits of a float type, little-endian: exact for values of that type, which is what makes it a reference.

    NaN and infinity survive. `bfloat16` rounds float32 input to nearest even.
    """

    name: str
    width: int

    TYPES: ClassVar[dict[str, Any]] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

    @property
    def code_bytes(self) -> int:
        return self.width * int(jnp.dtype(self.TYPES[self.name]).itemsize)

    def encode(self, x: jax.Array) -> jax.Array:
        _check_width(x.shape[-1], self.width, "representation")
        return _to_bytes(x.astype(self.TYPES[self.name]))

    def decode(self, codes: jax.Array, dtype: DTypeLike) -> jax.Array:
        _check_width(codes.shape[-1], self.code_bytes, "code")
        return _from_bytes(codes, self.TYPES[self.name]).astype(dtype)

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "width": self.width}

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        return {}


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
        return self.width + 4

    def encode(self, x: jax.Array) -> jax.Array:
        _check_width(x.shape[-1], self.width, "representation")
        values = x.astype(jnp.float32)
        scale = jnp.max(jnp.abs(values), axis=-1, keepdims=True) / self._MAX
        # Flush by hand: whether XLA flushes subnormals depends on the device, and stored bytes must not.
        scale = jnp.where(scale < _SMALLEST, 0.0, scale)
        scale = jnp.where(jnp.isfinite(scale), scale, jnp.nan)
        usable = scale > 0
        levels = jnp.where(usable, jnp.round(values / jnp.where(usable, scale, 1.0)), 0.0)
        quantised = jnp.clip(levels, -self._MAX, self._MAX).astype(jnp.int8)
        return jnp.concatenate([jax.lax.bitcast_convert_type(quantised, jnp.uint8), _to_bytes(scale)], axis=-1)

    def decode(self, codes: jax.Array, dtype: DTypeLike) -> jax.Array:
        _check_width(codes.shape[-1], self.code_bytes, "code")
        values = jax.lax.bitcast_convert_type(codes[..., : self.width], jnp.int8)
        scale = _from_bytes(codes[..., self.width :], jnp.float32)
        return (values.astype(jnp.float32) * scale).astype(dtype)

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "width": self.width}

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        return {}


def _check_width(found: int, expected: int, what: str) -> None:
    if found != expected:
        raise UsageError(f"{what} is {found} wide, the codec expects {expected}")


def _raw(spec: Mapping[str, Any], tables: Tables) -> Codec:
    return RawCodec(spec["name"], spec["width"])


def _int8(spec: Mapping[str, Any], tables: Tables) -> Codec:
    return Int8Codec(spec["width"])


# Each entry: the spec's keys and the builder. The spec comes from memory.json, so unknown keys are damage.
_CODECS: dict[str, tuple[frozenset[str], Callable[[Mapping[str, Any], Tables], Codec]]] = {
    "float32": (frozenset({"name", "width"}), _raw),
    "bfloat16": (frozenset({"name", "width"}), _raw),
    "int8": (frozenset({"name", "width"}), _int8),
}
_MAX_WIDTH = 1 << 16


def codec_names() -> tuple[str, ...]:
    """Names `make_codec` knows, for a command line's choices."""
    return tuple(_CODECS)


def make_codec(name: str, width: int) -> Codec:
    """The codec `name` for representations of width `width`; raises UsageError for an unknown name or width."""
    if name not in _CODECS:
        raise UsageError(f"unknown codec {name!r}; choose one of {', '.join(_CODECS)}")
    if isinstance(width, bool) or not isinstance(width, int) or not 0 < width <= _MAX_WIDTH:
        raise UsageError(f"a codec's width must be between 1 and {_MAX_WIDTH}, not {width!r}")
    return codec_from_spec({"name": name, "width": width}, {})


def codec_from_spec(spec: Mapping[str, Any], tables: Tables) -> Codec:
    """The codec that memory.json describes, with the arrays of `codec/`.

    Raises DamageError when the description is not one this version could have written.
    """
    name, width = spec.get("name"), spec.get("width")
    if not isinstance(name, str) or name not in _CODECS:
        raise DamageError(f"memory.json: codec.name is {name!r}, expected one of {', '.join(_CODECS)}")
    keys, build = _CODECS[name]
    if set(spec) != keys:
        raise DamageError(f"memory.json: codec has the keys {sorted(spec)}, expected {sorted(keys)}")
    if isinstance(width, bool) or not isinstance(width, int) or not 0 < width <= _MAX_WIDTH:
        raise DamageError(f"memory.json: codec.width is {width!r}, expected an integer from 1 to {_MAX_WIDTH}")
    codec = build(spec, tables)
    expected = {key: (np.asarray(value).shape, np.asarray(value).dtype) for key, value in codec.tables().items()}
    if set(tables) != set(expected):
        raise DamageError(f"codec/: tables {sorted(tables)}, but codec {name} needs {sorted(expected)}")
    return codec
