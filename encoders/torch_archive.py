"""Reads the tensors of a `pytorch_model.bin` without running any code that the file brings.

Such a file is a zip of raw storages, never compressed, and a pickle that names them (see `torch_pickle`). The bytes of
a storage are read only when its tensor is, and the tensor's reach is then compared with the bytes that really came.
"""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path

import numpy as np

from .. import ModelError
from .model_files import open_plain, understood
from .torch_pickle import PickleError, TorchTensor, read_state
from .weights import Array, LazyTensor, Tensors

_LARGEST_PICKLE = 8 << 20
_MOST_TIMES = 8
"""How often the tensors may name the archive's bytes: T5 names its embedding four times, a file of nothing else."""


def read_torch(path: Path) -> Tensors:
    """Maps a zip-format `.bin` or `.pt` state dict. ModelError for the format before 2020, damage, or foreign code."""
    with open_plain(path) as file, understood(path, "refused or damaged"):
        size = os.fstat(file.fileno()).st_size
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile:
            raise ModelError(
                f"{path}: not a PyTorch zip archive (damaged, or older than PyTorch 1.6): save it as safetensors"
            ) from None
        members = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise ModelError(f"{path}: a zip, but not one of PyTorch weights (no data.pkl)")
        prefix = pickles[0].removesuffix("data.pkl")
        for info in members.values():
            _check_member(path, info, size)
        if members[pickles[0]].file_size > _LARGEST_PICKLE:
            raise ModelError(f"{path}: data.pkl is larger than any state dict's")
        byteorder = members.get(prefix + "byteorder")
        if byteorder is not None and (byteorder.file_size > 16 or archive.read(byteorder).strip() != b"little"):
            raise ModelError(f"{path}: big-endian weights are not supported: save it as safetensors")
        try:
            state = read_state(archive.read(pickles[0]))
        except PickleError as error:
            raise ModelError(f"{path}: refused or damaged: {error}") from None
    entries = {}
    for name, tensor in state.items():
        if not isinstance(name, str) or type(tensor) is not TorchTensor:
            continue  # bookkeeping such as step counters; a weight that is missed is named when it is looked for
        member = f"{prefix}data/{tensor.storage.key}"
        if member not in members or members[member].file_size < tensor.storage.size * tensor.storage.dtype.itemsize:
            raise ModelError(f"{path}: the storage of tensor {name!r:.100} is missing or cut short")
        entries[name] = _lazy(path, member, tensor)
    needed = sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in entries.values())
    if needed > _MOST_TIMES * size:
        raise ModelError(f"{path}: its tensors name the bytes of {size:,} more than {_MOST_TIMES} times over")
    return Tensors(entries, str(path))


def _check_member(path: Path, info: zipfile.ZipInfo, size: int) -> None:
    """Refuses a member that would be more than the archive's own `size` bytes; PyTorch compresses nothing."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ModelError(f"{path}: {info.filename} is compressed, which PyTorch never does: save it as safetensors")
    if info.file_size > size:
        raise ModelError(f"{path}: {info.filename} is to have {info.file_size:,} bytes in an archive of {size:,}")


def _lazy(path: Path, member: str, tensor: TorchTensor) -> LazyTensor:
    dtype = tensor.storage.dtype

    def read() -> Array:
        with open_plain(path) as file, understood(path, f"{member} cannot be read"):
            with zipfile.ZipFile(file) as archive:
                info = archive.getinfo(member)
                _check_member(path, info, os.fstat(file.fileno()).st_size)
                content = archive.read(info)
            flat = np.frombuffer(content, dtype, len(content) // dtype.itemsize)
            # The file may have been exchanged since the pickle was read.
            if tensor.reach() > len(flat):
                raise ModelError(f"{path}: {member} is cut short")
            strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
            start = flat[min(tensor.offset, len(flat)) :]
            return np.lib.stride_tricks.as_strided(start, tensor.shape, strides, writeable=False)

    return LazyTensor(tensor.shape, dtype, read)
