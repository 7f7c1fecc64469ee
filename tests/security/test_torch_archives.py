"""A PyTorch archive is read without running what it says, and no tensor reaches beyond the bytes that are there."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimmer import ModelError
from glimmer.encoders.torch_archive import read_torch

STORED = np.arange(16, dtype="<f4").tobytes()


def global_(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value: int) -> bytes:
    content = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def storage(size: int = 16, key: str = "0") -> bytes:
    content = text("storage") + global_("torch", "FloatStorage") + text(key) + text("cpu") + integer(size)
    return b"(" + content + b"tQ"


def tensor(shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,), offset: int = 0, size: int = 16) -> bytes:
    """The opcodes that leave one tensor on the stack."""
    described = storage(size) + integer(offset) + numbers(shape) + numbers(strides) + b"\x89" + b")"
    return global_("torch._utils", "_rebuild_tensor_v2") + b"(" + described + b"tR"


def state(*members: tuple[str, bytes]) -> bytes:
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in members) + b"u."


def archive(path: Path, content: bytes, data: bytes = STORED, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/data/0", data)
    return path


def read(path: Path) -> dict[str, Any]:
    return {name: value.copy() for name, value in read_torch(path).items()}


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_what_these_tests_build_is_read_when_it_is_sound(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.bin", state(("w", tensor((2, 3), (4, 1), 1)), ("v", tensor())))
    found = read(path)
    assert found["w"].tolist() == [[1, 2, 3], [5, 6, 7]]
    assert found["v"].tolist() == [0, 1, 2, 3]


def test_the_state_dict_of_a_real_module_carries_metadata_by_build_and_is_read(tmp_path: Path) -> None:
    """`torch.save(module.state_dict())`: an OrderedDict whose attribute `_metadata` pickle sets with BUILD."""
    kept: OrderedDict[str, Any] = OrderedDict(w=7)
    kept._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    content = pickle.dumps(kept, 2)
    assert "BUILD" in {operation.name for operation, _, _ in pickletools.genops(content)}
    assert content.count(b"K\x07") == 1
    found = read(archive(tmp_path / "m.bin", content.replace(b"K\x07", tensor())))
    assert found["w"].tolist() == [0, 1, 2, 3]
    assert list(found) == ["w"]


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (1 << 20,), "strides": (1,)},
        {"offset": 1 << 40},
        {"strides": (1 << 40,)},
        {"strides": (-(1 << 20),)},
        {"storage": 7},
        {"__class__": 7},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_tensor_cannot_be_changed_after_it_was_checked(changes: dict[str, Any], tmp_path: Path) -> None:
    """BUILD would set the attributes of an object past every check; on a tensor it is refused."""
    attributes = b"}" + b"".join(
        text(name) + (numbers(value) if isinstance(value, tuple) else integer(value)) + b"s"
        for name, value in changes.items()
    )
    for built in (attributes, b"N" + attributes + b"\x86"):  # the state of __dict__, and (None, the state of slots)
        refused(archive(tmp_path / "m.bin", state(("w", tensor() + built + b"b"))))


@pytest.mark.parametrize(
    "target",
    [
        global_("collections", "OrderedDict"),
        global_("torch._utils", "_rebuild_tensor_v2"),
        global_("torch", "FloatStorage"),
        storage(),
        text("a string"),
    ],
    ids=["OrderedDict itself", "a function", "a type", "a storage", "text"],
)
def test_nothing_but_a_dictionary_is_built(target: bytes, tmp_path: Path) -> None:
    refused(archive(tmp_path / "m.bin", state(("w", target + b"}" + text("x") + integer(1) + b"s" + b"b"))))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(tensor((17,)), id="longer than its storage"),
        pytest.param(tensor((4,), (5,), 1), id="strides past the end"),
        pytest.param(tensor((4,), (1,), 13), id="offset past the end"),
        pytest.param(tensor((4,), (-1,), 3), id="a negative stride"),
        pytest.param(tensor((-4, -4), (1, 1)), id="negative extents"),
        pytest.param(tensor((4,), (1,), -1), id="a negative offset"),
        pytest.param(tensor((1 << 63, 2), (0, 0)), id="extents beyond 64 bits"),
        pytest.param(tensor((10**300, 0), (1, 1)), id="an extent of 300 digits"),
        pytest.param(tensor((2,), (10**300,)), id="a stride of 300 digits"),
        pytest.param(tensor((0,), (1,), 1 << 70), id="an offset beyond 64 bits of nothing"),
        pytest.param(tensor((2, 2), (1,)), id="fewer strides than extents"),
        pytest.param(tensor((1,) * 100, (1,) * 100), id="a hundred dimensions"),
        pytest.param(tensor((1 << 20,), (1,), 0, 1 << 20), id="a storage larger than its bytes"),
        pytest.param(tensor((16,), (1,), 0, 10**100), id="a storage of 100 digits"),
    ],
)
def test_a_tensor_that_reaches_beyond_its_bytes_is_refused(content: bytes, tmp_path: Path) -> None:
    refused(archive(tmp_path / "m.bin", state(("w", content))))


def test_the_bytes_that_were_read_are_looked_at_again(tmp_path: Path) -> None:
    """The archive is exchanged between the look at its directory and the reading of a tensor."""
    path = archive(tmp_path / "m.bin", state(("w", tensor((16,)))))
    tensors = read_torch(path)
    archive(path, state(("w", tensor((16,)))), data=STORED[:8])
    with pytest.raises(ModelError, match="cut short"):
        tensors["w"]


def test_a_compressed_member_is_refused_before_it_is_expanded(tmp_path: Path) -> None:
    """PyTorch never compresses; 1 MB would become 1 GB."""
    data = bytes(1 << 20)
    path = archive(tmp_path / "m.bin", state(("w", tensor((16,)))), data=data, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 14
    assert "compressed" in refused(path)


def test_a_directory_that_claims_more_bytes_than_the_file_has_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.bin", state(("w", tensor((16,)))))
    content = bytearray(path.read_bytes())
    at = content.rindex(b"archive/data/0") - 46
    content[at + 20 : at + 28] = struct.pack("<II", 0xFFFFFF00, 0xFFFFFF00)
    path.write_bytes(content)
    refused(path)


def test_one_storage_named_many_times_does_not_multiply_the_work(tmp_path: Path) -> None:
    """A megabyte under ten thousand names would be written as ten gigabytes."""
    size = 1 << 18
    members = [(f"w{number}", tensor((size,), (1,), 0, size)) for number in range(100)]
    path = archive(tmp_path / "m.bin", state(*members), data=bytes(4 * size))
    assert "times" in refused(path)


def test_the_size_of_the_pickle_and_the_number_of_its_steps_are_bounded(tmp_path: Path) -> None:
    refused(archive(tmp_path / "m.bin", b"\x80\x02" + b"}" * (2 << 20) + b"."))
    refused(archive(tmp_path / "m.bin", b"\x80\x02}" + b"X" + struct.pack("<I", 9 << 20) + bytes(9 << 20) + b"."))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"\x80\x02.",
        b"\x80\x02}",
        b"\x80\x02}0.",
        b"\x80\x02(.",
        b"\x80\x02h\x07.",
        b"\x80\x02}u.",
        b"\x80\x02)R.",
        b"\x80\x02" + b"(" * 2000 + b"t" * 2000 + b".",
        b"\x80\x02}]}s.",
        b"I" + b"9" * 5000 + b"\n.",
    ],
)
def test_a_pickle_without_sense_is_one_line(content: bytes, tmp_path: Path) -> None:
    refused(archive(tmp_path / "m.bin", content))


def test_a_file_that_is_no_plain_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.bin")
    (tmp_path / "zero.bin").symlink_to("/dev/zero")
    for name in ("fifo.bin", "zero.bin"):
        assert "plain file" in refused(tmp_path / name)
    with pytest.raises(ModelError):
        read_torch(tmp_path)
