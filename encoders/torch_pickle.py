"""Reads the pickle of a PyTorch state dict as data: no unpickler, no import, no object but our own.

A pickle is a program for a small stack machine. This one knows the instructions that a state dict consists of and no
others, and every value it makes is a plain one: text, numbers, tuples, lists, dicts, and immutable descriptions of
storages and tensors. So nothing can be called, and nothing that was checked can be changed afterwards. BUILD, which
PyTorch uses to hang `_metadata` onto a state dict, drops what it brings, and is refused on anything but a dict.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .weights import BFLOAT16

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
_MOST_STEPS = 1_000_000  # a tensor takes about thirty
_MOST_DIMENSIONS = 16
_LARGEST = 1 << 48
"""No storage, extent, stride or offset is larger: their products stay far from any integer's limit in use."""


class PickleError(ValueError):
    """The pickle is not a state dict; the message says why."""


class TorchStorage(NamedTuple):
    """`size` values of `dtype` in the archive's member `data/<key>`."""

    dtype: np.dtype[Any]
    key: str
    size: int


class TorchTensor(NamedTuple):
    """A view of a storage: `offset` and `strides` count values, not bytes."""

    storage: TorchStorage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def reach(self) -> int:
        """How many values of the storage, from its first, the tensor needs."""
        if math.prod(self.shape) == 0:
            return 0
        last = sum((extent - 1) * stride for extent, stride in zip(self.shape, self.strides, strict=True))
        return self.offset + last + 1


class _Name(NamedTuple):
    """What a pickle imports, by name alone."""

    module: str
    name: str


class _Mark:
    """Where a group of values begins on the stack."""


_MARK = _Mark()


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TorchTensor:
    if type(storage) is not TorchStorage or type(shape) is not tuple or type(strides) is not tuple:
        raise PickleError("a tensor is described with values of the wrong type")
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS:
        raise PickleError(f"a tensor has {len(shape)} extents and {len(strides)} strides")
    if not all(type(number) is int and 0 <= number <= _LARGEST for number in (offset, *shape, *strides)):
        raise PickleError("a tensor's offset, extents or strides are no sizes")
    tensor = TorchTensor(storage, offset, shape, strides)
    if math.prod(shape) > storage.size or tensor.reach() > storage.size:
        raise PickleError("a tensor reaches beyond its storage")
    return tensor


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _dictionary() -> dict[Any, Any]:
    return {}


_CALLS: dict[_Name, Callable[..., Any]] = {
    _Name("collections", "OrderedDict"): _dictionary,
    _Name("torch._utils", "_rebuild_tensor"): _tensor,
    _Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    _Name("torch._utils", "_rebuild_parameter"): _parameter,
}
_IMPORTS = {*_CALLS, *(_Name(module, name) for module in ("torch", "torch.storage") for name in _STORAGES)}


def _import(module: Any, name: Any) -> _Name:
    found = _Name(str(module), str(name))
    if found not in _IMPORTS:
        raise PickleError(f"it asks to import {found.module}.{found.name}, which a state dict does not need")
    return found


def _storage(reference: Any) -> TorchStorage:
    if not (type(reference) is tuple and len(reference) == 5 and reference[0] == "storage"):
        raise PickleError("an unknown kind of reference")
    _, kind, key, _, size = reference
    if type(kind) is not _Name or kind.name not in _STORAGES or type(key) is not str or not key.isalnum():
        raise PickleError("a storage is described with values of the wrong type")
    if type(size) is not int or not 0 <= size <= _LARGEST:
        raise PickleError("a storage's size is no size")
    return TorchStorage(_STORAGES[kind.name], key, size)


def _call(function: Any, arguments: Any) -> Any:
    if type(function) is not _Name or function not in _CALLS or type(arguments) is not tuple:
        raise PickleError("it calls what cannot be called")
    try:
        return _CALLS[function](*arguments)
    except TypeError:
        raise PickleError(f"{function.name} is called with the wrong number of values") from None


_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
    )
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack and the memo; `step` carries out one instruction."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any, most: int) -> None:
        """`most` is the largest memo index that makes sense."""
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(self._memo) if name == "MEMOIZE" else int(argument)
            if not 0 <= index <= most:
                raise PickleError(f"memo index {index} in a pickle of {most} bytes")
            self._memo[index] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[int(argument)])
        elif name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in ("TUPLE", "LIST"):
            stack.append(tuple(self._group()) if name == "TUPLE" else self._group())
        elif name in _TUPLES:
            stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in ("SETITEM", "SETITEMS"):
            self._set(self._pop(2) if name == "SETITEM" else self._group())
        elif name in ("APPEND", "APPENDS"):
            values = self._pop(1) if name == "APPEND" else self._group()
            if type(stack[-1]) is not list:
                raise PickleError("it appends to what is no list")
            stack[-1].extend(values)
        elif name == "GLOBAL":
            stack.append(_import(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_import(*self._pop(2)))
        elif name == "BINPERSID":
            stack.append(_storage(*self._pop(1)))
        elif name == "REDUCE":
            stack.append(_call(*self._pop(2)))
        elif name == "BUILD":
            self._pop(1)
            if type(stack[-1]) is not dict:
                raise PickleError("it changes an object after it was made (BUILD)")
        elif name not in ("PROTO", "FRAME"):
            raise PickleError(f"it holds the instruction {name}, which a state dict does not need")

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count or any(value is _MARK for value in self.stack[-count:]):
            raise PickleError("its stack runs empty")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def _group(self) -> list[Any]:
        """The values down to the last mark, which goes too."""
        values: list[Any] = []
        while self.stack and self.stack[-1] is not _MARK:
            values.append(self.stack.pop())
        self._drop_mark()
        return values[::-1]

    def _drop_mark(self) -> None:
        if not self.stack:
            raise PickleError("its stack runs empty")
        self.stack.pop()

    def _set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        keys = pairs[::2]
        if type(target) is not dict or len(pairs) % 2 or not all(type(key) in (str, int) for key in keys):
            raise PickleError("it sets what is no entry of a dict")
        target.update(zip(keys, pairs[1::2], strict=True))


def read_state(content: bytes) -> dict[Any, Any]:
    """The state dict in a pickle, its tensors as `TorchTensor`; PickleError when it is anything else."""
    machine = _Machine()
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if count > _MOST_STEPS:
                raise PickleError(f"it has more than {_MOST_STEPS:,} instructions")
            if operation.name == "STOP":
                break
            machine.step(operation.name, argument, len(content))
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, UnicodeError) as error:
        # Texts of these may hold the pickle's own bytes; a few words of them are enough.
        raise PickleError(f"its pickle is damaged ({type(error).__name__}: {str(error)[:80]!r})") from None
    state = machine.stack[-1] if machine.stack else None
    if type(state) is not dict:
        raise PickleError("it holds no state dict")
    return state
