"""Named tensors on disk: a lazy mapping, files in the safetensors format, and tensors written one after the other.

A T5-XXL checkpoint is 44 GB, so nothing here holds more than one tensor: files are memory-mapped, a transposed or cast
tensor is made when it is asked for, and writing goes tensor by tensor.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import safe_open

from .. import ModelError, StorageError
from .model_files import open_plain, read_plain, understood
from .strict_json import unique_keys

Array = np.ndarray[Any, np.dtype[Any]]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LARGEST_HEADER = 8 << 20
_MOST_DIMENSIONS = 16


@dataclass(frozen=True)
class LazyTensor:
    """A tensor's shape and dtype, and how to get its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], Array]

    def transposed(self) -> LazyTensor:
        """The two-dimensional tensor with its axes exchanged."""
        return LazyTensor(self.shape[::-1], self.dtype, lambda: np.ascontiguousarray(self.read().T))

    def cast(self, dtype: np.dtype[Any]) -> LazyTensor:
        """The same values in `dtype`."""
        return self if dtype == self.dtype else LazyTensor(self.shape, dtype, lambda: self.read().astype(dtype))

    def index(self, axis: int, position: int) -> LazyTensor:
        """One slice along `axis`."""
        shape = self.shape[:axis] + self.shape[axis + 1 :]
        return LazyTensor(shape, self.dtype, lambda: np.take(self.read(), position, axis=axis))

    def reshaped(self, *shape: int) -> LazyTensor:
        """The same values in another shape of equal size."""
        return LazyTensor(shape, self.dtype, lambda: self.read().reshape(shape))


class Tensors(Mapping[str, Array]):
    """A mapping from names to arrays, each read when asked for. `origin` names the file(s) in errors."""

    def __init__(self, entries: Mapping[str, LazyTensor], origin: str) -> None:
        self.entries = dict(entries)
        self.origin = origin

    def __getitem__(self, name: str) -> Array:
        return self.lazy(name).read()

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def lazy(self, name: str) -> LazyTensor:
        """The unread tensor; ModelError when there is none of that name."""
        try:
            return self.entries[name]
        except KeyError:
            raise ModelError(f"{self.origin}: tensor {name} is missing") from None

    def expect(self, name: str, shape: tuple[int, ...]) -> Array:
        """The array of that name; ModelError when it is missing or of another shape."""
        entry = self.lazy(name)
        if entry.shape != shape:
            raise ModelError(f"{self.origin}: tensor {name} is {list(entry.shape)}, expected {list(shape)}")
        return entry.read()


def in_memory(arrays: Mapping[str, Array], origin: str = "memory") -> Tensors:
    """Tensors over arrays that already exist."""

    def entry(array: Array) -> LazyTensor:
        return LazyTensor(array.shape, array.dtype, lambda: array)

    return Tensors({name: entry(np.asarray(array)) for name, array in arrays.items()}, origin)


def read_safetensors(path: Path) -> Tensors:
    """Maps one .safetensors file. ModelError when it is absent, cut short or its header is not sound.

    The library reads the header, and refuses one whose tensors do not lie end to end and fill the file. Their values
    are mapped rather than copied by it: going through a cached file of 1 GB took 0.15 s so, 1.6 s with `get_tensor`.
    It would take FIFOs and headers of 100 MB; those are refused before.
    """
    with open_plain(path) as file, understood(path, "not a safetensors file, cut short or damaged"):
        size = os.fstat(file.fileno()).st_size
        start = 8 + int.from_bytes(file.read(8), "little")
        if start > min(size, _LARGEST_HEADER):
            raise ModelError(f"{path}: not a safetensors file, or cut short (header of {start - 8} bytes)")
        data: Array = np.memmap(file, np.uint8, "r", offset=start) if size > start else np.zeros(0, np.uint8)
        entries = {}
        with safe_open(path, framework="numpy") as opened:
            begin = 0
            for name in opened.offset_keys():
                part = opened.get_slice(name)
                dtype, shape = _DTYPES.get(part.get_dtype()), tuple(part.get_shape())
                if dtype is None or len(shape) > _MOST_DIMENSIONS:
                    raise ModelError(f"{path}: tensor {name!r:.80} is {part.get_dtype()} of {len(shape)} dimensions")
                end = begin + math.prod(shape) * dtype.itemsize
                entries[name] = _mapped(data[begin:end], dtype, shape)
                begin = end
    return Tensors(entries, str(path))


def _mapped(data: Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> LazyTensor:
    return LazyTensor(shape, dtype, lambda: data.view(dtype).reshape(shape))


def read_sharded(directory: Path, index: str, read: Callable[[Path], Tensors]) -> Tensors:
    """Tensors of a checkpoint cut into files by an index (`*.index.json`) that maps names to files of `directory`."""
    path = directory / index
    content = read_plain(path, 2 * _LARGEST_HEADER)
    with understood(path, "not a checkpoint index"):
        weight_map = json.loads(content.decode("utf-8"), object_pairs_hook=unique_keys)["weight_map"]
        files = sorted(set(weight_map.values()))
    if any(not isinstance(name, str) or Path(name).name != name for name in files):
        raise ModelError(f"{path}: names a file outside its directory")
    parts = {name: read(directory / name) for name in files}
    return Tensors({name: parts[file].lazy(name) for name, file in weight_map.items()}, str(path))


def check_finite(origin: str, name: str, array: Array, remedy: str) -> None:
    """ModelError naming the tensor and `remedy` where a floating `array` holds NaN or an infinity."""
    if array.dtype.kind in "iub?":
        return
    wrong = array.size - int(np.count_nonzero(np.isfinite(array)))
    if wrong:
        raise ModelError(
            f"{origin}: tensor {name} holds {wrong:,} of {array.size:,} numbers that are not finite; {remedy}"
        )


def write_safetensors(path: Path, tensors: Tensors, *, finite_or: str | None = None) -> None:
    """Writes `tensors` one by one in the order of their names, flushed to disk. StorageError when that fails.

    The library writes tensors that are all in memory: casting four of 256 MB to half took 512 MB with its `save_file`,
    and 256 MB so, which is one tensor's share however many there are.

    With `finite_or`, a tensor that holds NaN or an infinity is a ModelError which ends in those words.
    """
    header: dict[str, Any] = {}
    offset = 0
    for name in sorted(tensors):
        entry = tensors.lazy(name)
        if entry.dtype not in _NAMES:
            raise ModelError(f"{tensors.origin}: tensor {name} is {entry.dtype}, which safetensors cannot hold")
        end = offset + math.prod(entry.shape) * entry.dtype.itemsize
        header[name] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps({"__metadata__": {"format": "np"}} | header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    try:
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in sorted(tensors):
                array = np.ascontiguousarray(tensors.expect(name, tensors.lazy(name).shape))
                if finite_or is not None:
                    check_finite(tensors.origin, name, array, finite_or)
                file.write(array.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error
