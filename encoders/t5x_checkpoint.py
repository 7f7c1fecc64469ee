"""Reads a T5X (and Flax) msgpack checkpoint: one file with a tree of arrays under `optimizer/target` or `target`.

Arrays are msgpack extension 1 holding (shape, dtype name, bytes), as Flax's serialisation defines; an array above
1 GiB is a dict of chunks. Only plain data can be in such a file, so reading one runs no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from .. import ModelError
from .model_files import read_plain, understood
from .weights import BFLOAT16, Array

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"
_LARGEST_FILE = 1 << 38
_MOST_ELEMENTS = 1 << 12
"""Elements of a list. msgpack allots a list by its announced length, before it has seen one element; in these files
lists are chunks of 1 GiB."""
_MOST_KEYS = 1 << 16
_MOST_DIMENSIONS, _LARGEST_SIZE = 16, 1 << 48
_DEEPEST = 64
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "bfloat16": BFLOAT16,
    "V2": BFLOAT16,
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "bool")},
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def _shape(value: Any, size: int) -> tuple[int, ...]:
    """A checked shape of `size` elements."""
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value, key=int)]
    shape = tuple(value)
    if len(shape) > _MOST_DIMENSIONS or not all(type(n) is int and 0 <= n <= _LARGEST_SIZE for n in shape):
        raise ValueError(f"{list(shape)!r:.80} is no shape")
    if prod(shape) != size:
        raise ValueError(f"an array of shape {list(shape)} has {size} elements")
    return shape


def _array(data: bytes) -> Array:
    shape, name, buffer = msgpack.unpackb(
        data, raw=True, max_array_len=_MOST_DIMENSIONS, max_map_len=0, max_ext_len=0, strict_map_key=False
    )
    name = name.decode() if isinstance(name, bytes) else name
    dtype = _DTYPES.get(name)
    if dtype is None or not isinstance(buffer, bytes) or len(buffer) % dtype.itemsize:
        raise ValueError(f"an array of {name!r:.40} has {len(buffer)} bytes")
    flat: Array = np.frombuffer(buffer, dtype)
    return flat.reshape(_shape(shape, flat.size))


def _extension(code: int, data: bytes) -> Any:
    if code in (_ARRAY, _SCALAR):
        return _array(data)
    if code == _COMPLEX:
        return None
    raise ValueError(f"unknown extension type {code}")


def _joined(tree: Mapping[Any, Any]) -> Array:
    """An array that was cut into chunks."""
    chunks = tree["chunks"]
    parts = [chunks[key] for key in sorted(chunks, key=int)] if isinstance(chunks, Mapping) else list(chunks)
    if not parts or not all(isinstance(part, np.ndarray) and part.dtype == parts[0].dtype for part in parts):
        raise ValueError("a chunked array is not of arrays of one type")
    flat: Array = np.concatenate([np.ravel(part) for part in parts])
    return flat.reshape(_shape(tree["shape"], flat.size))


def _flatten(tree: Any, prefix: str, flat: dict[str, Array], depth: int = 0) -> None:
    if isinstance(tree, Mapping):
        if depth > _DEEPEST:
            raise ValueError("its tree is nested too deep")
        if _CHUNKED in tree:
            flat[prefix] = _joined(tree)
            return
        for key, value in tree.items():
            _flatten(value, f"{prefix}/{key}" if prefix else str(key), flat, depth + 1)
    elif isinstance(tree, np.ndarray):
        flat[prefix] = tree


def read_t5x(path: Path) -> dict[str, Array]:
    """The model's parameters by path ("encoder/layers_0/attention/query/kernel"). ModelError when malformed."""
    content = read_plain(path, _LARGEST_FILE)
    flat: dict[str, Array] = {}
    with understood(path, "not a T5X msgpack checkpoint, or damaged"):
        tree = msgpack.unpackb(
            content,
            ext_hook=_extension,
            raw=False,
            strict_map_key=False,
            max_array_len=_MOST_ELEMENTS,
            max_map_len=_MOST_KEYS,
        )
        for key in ("optimizer", "target", "params"):
            if isinstance(tree, Mapping) and key in tree:
                tree = tree[key]
        _flatten(tree, "", flat)
    if "token_embedder/embedding" not in flat:
        raise ModelError(f"{path}: no token_embedder/embedding: this is not a T5X T5 checkpoint")
    return flat
