"""Reads a T5X (and Flax) checkpoint: one msgpack file with a tree of arrays under `optimizer/target` or `target`.

Only plain data can be in such a file, so reading one runs no code. Flax reads it; what a length in it announces is
looked at before: msgpack allots a list by its length alone, so 2,500 bytes may ask for any amount of memory. That is a
second pass, in which nothing is kept: 637 MB took 4.3 s instead of 2.7, in equal memory.
"""

from __future__ import annotations

from pathlib import Path

import msgpack
import numpy as np

from .. import ModelError
from .model_files import open_plain, read_plain, understood
from .weights import BFLOAT16, Array, LazyTensor, Tensors

MOST_LAYERS = 1024
_LARGEST_FILE = 1 << 38
_MOST_ELEMENTS = 1 << 12
"""Elements of a list: in these files, lists are chunks of 1 GiB."""
_MOST_KEYS = 1 << 16
_MOST_DIMENSIONS = 16
_DTYPES = {BFLOAT16, *map(np.dtype, ("float16", "float32", "float64", "bool"))}
_DTYPES |= {np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)}


def is_msgpack_map(path: Path) -> bool:
    """Whether the file's first byte begins a msgpack map, as a checkpoint's does."""
    with open_plain(path) as file:
        first = file.read(1)
    return first[:1] in (b"\xde", b"\xdf") or b"\x80" <= first <= b"\x8f"


def read_t5x(path: Path) -> dict[str, Array]:
    """The model's parameters by path ("encoder/layers_0/attention/query/kernel"). ModelError when malformed."""
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    content = read_plain(path, _LARGEST_FILE)
    with understood(path, "not a T5X msgpack checkpoint, or damaged"):
        limits = {"max_array_len": _MOST_ELEMENTS, "max_map_len": _MOST_KEYS}
        msgpack.unpackb(content, ext_hook=_check_extension, raw=False, strict_map_key=False, **limits)
        tree = msgpack_restore(content)
        for key in ("optimizer", "target", "params"):
            tree = tree.get(key, tree)
        named = {"/".join(map(str, steps)): value for steps, value in flatten_dict(tree).items()}
        arrays = {name: _plain(name, value) for name, value in named.items() if isinstance(value, np.ndarray)}
    if "token_embedder/embedding" not in arrays:
        raise ModelError(f"{path}: no token_embedder/embedding: this is not a T5X T5 checkpoint")
    return arrays


def _check_extension(code: int, data: bytes) -> None:
    """An array is (shape, dtype's name, bytes), in msgpack again."""
    msgpack.unpackb(data, raw=True, max_array_len=_MOST_DIMENSIONS, max_map_len=0, max_ext_len=0)


def _plain(name: str, array: Array) -> Array:
    if array.dtype == np.dtype("V2"):  # how NumPy names bfloat16 where it does not know it
        array = array.view(BFLOAT16)
    if array.dtype not in _DTYPES or array.ndim > _MOST_DIMENSIONS:
        raise ValueError(f"{name:.80} is an array of {array.dtype!s:.40} with {array.ndim} dimensions")
    return array


def layer_count(tensors: Tensors, side: str) -> int:
    """How many layers the tensors of `side` ("encoder" or "decoder") are numbered for."""
    prefix = f"{side}/layers_"
    numbers = {name.removeprefix(prefix).split("/")[0] for name in tensors if name.startswith(prefix)}
    # Longer numbers are no layers of any model.
    return 1 + max((int(number) for number in numbers if number.isdecimal() and len(number) < 6), default=-1)


def unscan(tensors: Tensors) -> Tensors:
    """Tensors by layer: with scanned layers a part of all of them is one array, the layers on axis 1, named without a
    number ("encoder/encoder/mlp/wo/kernel"). Others are unchanged."""
    entries: dict[str, LazyTensor] = {}
    for name, entry in tensors.entries.items():
        side, _, rest = name.partition("/")
        inside = rest.removeprefix(f"{side}/")
        if inside == rest or len(entry.shape) < 2:
            entries[name] = entry
            continue
        if entry.shape[1] > MOST_LAYERS:
            raise ModelError(f"{tensors.origin}: {name} is {list(entry.shape)}: more than {MOST_LAYERS} layers")
        for number in range(entry.shape[1]):
            entries[f"{side}/layers_{number}/{inside}"] = entry.index(1, number)
    return Tensors(entries, tensors.origin)
