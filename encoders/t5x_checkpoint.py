"""Reads a T5X (and Flax) msgpack checkpoint: one file with a tree of arrays under `optimizer/target` or `target`.

Arrays are msgpack extension 1 holding (shape, dtype name, bytes), as Flax's serialisation defines; an array above
1 GiB is a dict of chunks. Only plain data can be in such a file, so reading one runs no code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from .. import ModelError
from .weights import BFLOAT16, Array

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED = "__msgpack_chunked_array__"


def _array(data: bytes) -> Array:
    shape, name, buffer = msgpack.unpackb(data, raw=True)
    name = name.decode() if isinstance(name, bytes) else name
    dtype = BFLOAT16 if name in ("bfloat16", "V2") else np.dtype(str(name))
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(buffer):
        raise ValueError(f"an array of {name} {list(shape)} has {len(buffer)} bytes")
    return np.frombuffer(buffer, dtype).reshape(shape)


def _extension(code: int, data: bytes) -> Any:
    if code in (_ARRAY, _SCALAR):
        return _array(data)
    if code == _COMPLEX:
        return None
    raise ValueError(f"unknown extension type {code}")


def _flatten(tree: Any, prefix: str, flat: dict[str, Array]) -> None:
    if isinstance(tree, Mapping):
        if _CHUNKED in tree:
            chunks = tree["chunks"]
            parts = [chunks[key] for key in sorted(chunks, key=int)] if isinstance(chunks, Mapping) else list(chunks)
            shape = tree["shape"]
            shape = [int(shape[key]) for key in sorted(shape, key=int)] if isinstance(shape, Mapping) else list(shape)
            flat[prefix] = np.concatenate([np.ravel(part) for part in parts]).reshape(shape)
            return
        for key, value in tree.items():
            _flatten(value, f"{prefix}/{key}" if prefix else str(key), flat)
    elif isinstance(tree, np.ndarray):
        flat[prefix] = tree


def read_t5x(path: Path) -> dict[str, Array]:
    """The model's parameters by path ("encoder/layers_0/attention/query/kernel"). ModelError when malformed."""
    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=_extension, raw=False, strict_map_key=False)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # msgpack and NumPy raise many kinds on a damaged file
        raise ModelError(f"{path}: not a T5X msgpack checkpoint, or damaged: {error}") from None
    for key in ("optimizer", "target", "params"):
        if isinstance(tree, Mapping) and key in tree:
            tree = tree[key]
    flat: dict[str, Array] = {}
    try:
        _flatten(tree, "", flat)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: a chunked array is damaged: {error}") from None
    if "token_embedder/embedding" not in flat:
        raise ModelError(f"{path}: no token_embedder/embedding: this is not a T5X T5 checkpoint")
    return flat
