"""Reads the tensors of a `pytorch_model.bin` without running any code that the file brings.

Such a file is a zip of raw storages and a pickle that names them. A pickle can call anything it can import, so this
reader lets it import nothing: the handful of names that a state dict needs are replaced by inert ones of our own, and
any other name is refused. The bytes of a storage are read only when its tensor is.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import ModelError
from .weights import BFLOAT16, Array, LazyTensor, Tensors

_STORAGES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_LARGEST_PICKLE = 64 << 20


@dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype[Any]
    key: str
    size: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    shape, strides = tuple(shape), tuple(strides)
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in numbers):
        raise pickle.UnpicklingError("a tensor is described with values of the wrong type")
    reach = offset + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)) + 1
    if math.prod(shape) > storage.size or (math.prod(shape) and reach > storage.size):
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


class _Restricted(pickle.Unpickler):
    """An unpickler whose whole world is a state dict."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        raise pickle.UnpicklingError(f"it asks to import {module}.{name}, which a state dict does not need")

    def persistent_load(self, pid: Any) -> Any:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise pickle.UnpicklingError("an unknown kind of reference")
        _, kind, key, _, size = pid
        if not (isinstance(kind, _StorageType) and isinstance(key, str) and key.isalnum() and type(size) is int):
            raise pickle.UnpicklingError("a storage is described with values of the wrong type")
        return _Storage(kind.dtype, key, size)


def _check_memo(content: bytes) -> None:
    """Refuses a pickle whose memo has gaps: Python allots it up to its largest index, four bytes asking for 64 GB."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(content):
            raise ValueError(f"memo index {argument} in a pickle of {len(content)} bytes")


def read_torch(path: Path) -> Tensors:
    """Maps a zip-format `.bin` or `.pt` state dict. ModelError for the format before 2020, damage, or foreign code."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in names if name.endswith("/data.pkl") or name == "data.pkl"]
            if len(pickles) != 1:
                raise ModelError(f"{path}: a zip, but not one of PyTorch weights (no data.pkl)")
            prefix = pickles[0].removesuffix("data.pkl")
            if names[pickles[0]].file_size > _LARGEST_PICKLE:
                raise ModelError(f"{path}: data.pkl is larger than any state dict's")
            byteorder = archive.read(prefix + "byteorder") if prefix + "byteorder" in names else b"little"
            content = archive.read(pickles[0])
            _check_memo(content)
            state = _Restricted(io.BytesIO(content)).load()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except zipfile.BadZipFile:
        raise ModelError(
            f"{path}: not a PyTorch zip archive (damaged, or older than PyTorch 1.6): save it as safetensors"
        ) from None
    except ModelError:
        raise
    except Exception as error:  # a hostile pickle can make the unpickler raise nearly anything
        raise ModelError(f"{path}: refused or damaged: {error}") from None
    if byteorder.strip() != b"little":
        raise ModelError(f"{path}: big-endian weights are not supported: save it as safetensors")
    if not isinstance(state, dict):
        raise ModelError(f"{path}: holds no state dict")
    entries = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            continue  # bookkeeping such as step counters; a weight that is missed is named when it is looked for
        member = f"{prefix}data/{tensor.storage.key}"
        if member not in names or names[member].file_size < tensor.storage.size * tensor.storage.dtype.itemsize:
            raise ModelError(f"{path}: the storage of tensor {name} is missing or cut short")
        entries[name] = _lazy(path, member, tensor)
    return Tensors(entries, str(path))


def _lazy(path: Path, member: str, tensor: _Tensor) -> LazyTensor:
    def read() -> Array:
        try:
            with zipfile.ZipFile(path) as archive:
                flat = np.frombuffer(archive.read(member), tensor.storage.dtype)
        except Exception as error:  # zipfile raises many kinds on a damaged member header
            raise ModelError(f"{path}: {member} cannot be read: {error}") from None
        strides = tuple(stride * flat.dtype.itemsize for stride in tensor.strides)
        return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)

    return LazyTensor(tensor.shape, tensor.storage.dtype, read)
