"""What a codec is: one token's representation as bytes, and back, inside `jax.jit`; and what describes one.

A memory has one codec for life. Whatever the codec, storage sees uint8 `[..., code_bytes]`, so the Zarr payload has one
dtype, and encode and decode are traced into the programs of the memory encoder and of the reader. Modules of this
package import JAX where they trace, not where they are imported: what only looks at a memory needs no JAX.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ... import UsageError

if TYPE_CHECKING:
    import jax
    from jax.typing import DTypeLike

Scalar = bool | int | float | str
Tables = Mapping[str, npt.NDArray[Any]]
"""A codec's arrays by name, as `codec/tables.safetensors` holds them."""

MAX_WIDTH = 1 << 16
MAX_TABLE_BYTES = (1 << 30) - (1 << 20)
"""Of all tables; the file that holds them has at most 1 GiB."""
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")


@runtime_checkable
class Codec(Protocol):
    """Turns representations of width D into `code_bytes` bytes a token, and back.

    Pure functions of their input and the tables. The last axes of what they get are [length, D] or [length, bytes]: a
    passage's tokens in their order, from position 0. A token's code depends on its representation, its id and its
    position, and on nothing else: jobs cut a corpus into batches of their own choice, and the stored bytes must not
    depend on it.
    """

    @property
    def name(self) -> str:
        """Name as in `--codec` and memory.json."""

    @property
    def width(self) -> int:
        """D, the representation's width."""

    @property
    def code_bytes(self) -> int:
        """Bytes a token."""

    def encode(self, x: jax.Array, ids: jax.Array) -> jax.Array:
        """x: float [..., length, D], ids: int32 [..., length] -> uint8 [..., length, code_bytes]. Traceable in jit.

        `ids` are the tokens' vocabulary ids; most codecs need none.
        """

    def decode(self, codes: jax.Array, dtype: DTypeLike) -> jax.Array:
        """codes: uint8 [..., length, code_bytes] -> `dtype` [..., length, D]. Traceable inside jit.

        Any bytes decode to something of that shape; positions beyond a passage's length are zero bytes, and their
        values are never used.
        """

    def spec(self) -> dict[str, Any]:
        """What memory.json records: `name`, `width` and the codec's parameters; JSON-able."""

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays stored in `codec/tables.safetensors`; empty for codecs that need none."""


@runtime_checkable
class RefusesNonFinite(Protocol):
    """A codec that cannot keep a NaN or an infinity, and says so in the code: jobs refuse such a passage by its id."""

    def refused(self, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """codes: uint8 [..., code_bytes] -> bool [...]: True where a representation was not finite."""


@dataclass(frozen=True, kw_only=True)
class FitSample:
    """What a codec's tables are fitted to: n tokens drawn from a corpus. A fit may overwrite the arrays.

    Attributes:
        vectors: float32 [n, D], what `encode` would be given.
        ids: int32 [n], the tokens' vocabulary ids.
        positions: int32 [n], their places in their passages.
        embeddings: float32 [V, D], the encoder's word embeddings.
    """

    vectors: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    embeddings: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a codec: `--codec NAME:<name>=<value>`, and a key of `codec` in memory.json.

    Attributes:
        name: lower-case letters, digits, `_` and `-`; not `name` or `width`.
        kind: bool, int, float or str.
        default: the value where none is given; None if one must be given.
        low, high: smallest and largest value of a number.
        choices: the values a str may have; of letters, digits, `.`, `_` and `-`.
        derive: (width, vocabulary) of the encoder -> the value where none is given, instead of `default`.
        fixed: no other value than the derived one may be given.
    """

    name: str
    kind: type[bool] | type[int] | type[float] | type[str]
    default: Scalar | None = None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    derive: Callable[[int, int], Scalar] | None = None
    fixed: bool = False

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None or self.name in ("name", "width"):
            raise UsageError(f"a codec's parameter cannot be called {self.name!r}")
        if self.kind is str and not (self.choices and all(map(_WORD.fullmatch, self.choices))):
            raise UsageError(f"parameter {self.name} needs choices of letters, digits, '.', '_' and '-'")
        if self.default is not None:
            self.check(self.default)

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return f"one of {', '.join(self.choices)}"
        what = "an integer" if self.kind is int else "a number"
        if self.low is not None and self.high is not None:
            return f"{what} from {self.low} to {self.high}"
        if self.low is not None:
            return f"{what} of at least {self.low}"
        return what if self.high is None else f"{what} of at most {self.high}"

    def check(self, value: object) -> Scalar:
        """`value` if it is one that this parameter can have; ValueError says what is expected instead."""
        if self.kind is bool:
            sound = isinstance(value, bool)
        elif self.kind is str:
            sound = value in self.choices
        elif isinstance(value, bool) or not isinstance(value, self.kind):
            sound = False
        else:
            low = -math.inf if self.low is None else self.low
            sound = low <= value <= (math.inf if self.high is None else self.high) and math.isfinite(value)  # type: ignore[operator, arg-type]
        if not sound:
            raise ValueError(f"{self.name} is {_shown(value)}, expected {self.expected}")
        return value  # type: ignore[return-value]

    def parse(self, text: str) -> Scalar:
        """The value that `text` of a command line says; raises ValueError."""
        value: object = text
        if self.kind is bool:
            value = {"true": True, "false": False}.get(text, text)
        elif self.kind is not str:
            try:
                value = self.kind(text)
            except ValueError:
                value = text
        return self.check(value)


@dataclass(frozen=True)
class CodecSpec:
    """A codec without its tables, checked: name, width and the value of every parameter, defaults filled in.

    `str()` gives it as a command line has it, without the width: `pq:bytes=24,rotate=true`.
    """

    name: str
    width: int
    parameters: Mapping[str, Scalar] = field(default_factory=lambda: MappingProxyType({}))

    def to_json(self) -> dict[str, Any]:
        """`codec` of memory.json: `name`, `width` and the parameters."""
        return {"name": self.name, "width": self.width, **self.parameters}

    def __getitem__(self, parameter: str) -> Any:
        """The value of a parameter, of the type it was declared with."""
        return self.parameters[parameter]

    def __str__(self) -> str:
        return spec_text(self.to_json())


def spec_text(spec: Mapping[str, Any]) -> str:
    """A codec's `spec()`, or `codec` of memory.json, as a command line has it: `int8`, `pq:bytes=24,rotate=true`."""
    values = [f"{key}={_plain(spec[key])}" for key in sorted(set(spec) - {"name", "width"})]
    return str(spec["name"]) + (f":{','.join(values)}" if values else "")


def _plain(value: Scalar) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


@dataclass(frozen=True)
class TableShape:
    """What one table of a codec is: its shape and its dtype (numeric; floats must be finite)."""

    shape: tuple[int, ...]
    dtype: npt.DTypeLike

    def check(self, name: str, table: npt.NDArray[Any]) -> None:
        """Raises ValueError unless `table` has this shape and dtype, and no NaN or infinity."""
        dtype = np.dtype(self.dtype)
        if table.shape != self.shape or table.dtype != dtype:
            raise ValueError(f"table {name} is {table.dtype} {table.shape}, expected {dtype} {self.shape}")
        if np.issubdtype(dtype, np.floating) and not np.isfinite(table).all():
            raise ValueError(f"table {name} holds a NaN or an infinity")


def tables_to_bytes(tables: Tables) -> bytes:
    """The content of `codec/tables.safetensors`; equal tables, equal bytes. Empty for a codec without tables."""
    return save_tensors({name: np.ascontiguousarray(table) for name, table in tables.items()}) if tables else b""


def tables_from_bytes(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """Inverse of `tables_to_bytes`; raises what the safetensors library raises for any other content."""
    tables: dict[str, npt.NDArray[Any]] = load_tensors(content) if content else {}
    return tables


def is_codec_name(name: object) -> bool:
    """Whether `name` may be a codec's: lower-case letters, digits, `_` and `-`, at most 64, a letter first."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_width(found: int, expected: int, what: str) -> None:
    """UsageError unless the last axis of what goes in has the codec's size."""
    if found != expected:
        raise UsageError(f"{what} is {found} wide, the codec expects {expected}")
