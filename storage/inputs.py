"""People's own input files: plain or compressed, on disk or in a pipe, opened the same way by every command.

A name is a path, or `-` for standard input. What cannot be read twice (a pipe, a FIFO, `/dev/fd/63` of a shell's
process substitution) is copied to a temporary file once. Compression is told from the first bytes, never from the name:
gzip, bzip2, xz and zstandard, several members in one file included.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import sys
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import zstandard

from .. import InputError, StorageError
from . import temporary
from .paths import local_path

STDIN: Final = "-"
BLOCK_BYTES: Final = 1 << 20
_ZSTD_BYTES_AT_ONCE: Final = 1 << 12  # four bytes expand to 128 KiB at most, so these to 128 MiB
_LARGEST_ZSTD_WINDOW: Final = 1 << 31  # what `zstd --long=31` writes

GZIP_MAGIC: Final = b"\x1f\x8b"
_MAGIC: Final = {
    "gzip": GZIP_MAGIC,
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zstandard": b"\x28\xb5\x2f\xfd",
}
MAGIC_BYTES: Final = max(map(len, _MAGIC.values()))


@dataclass(frozen=True)
class InputFile:
    """An input file that can be read as often as need be.

    Attributes:
        name: how messages call it: the path as it was given, or `<stdin>`.
        path: where its bytes are; a temporary copy for a stream, which lives as long as this object.
        size: bytes, compressed as they stand.
        stamp: changes when the content does: modification time in ns, or the SHA-256 of a copied stream.
    """

    name: str
    path: Path
    size: int
    stamp: int | str


class CompressionError(Exception):
    """A compressed stream is damaged, or `truncated`: it ends before its end."""

    def __init__(self, detail: str, *, truncated: bool = False) -> None:
        super().__init__(detail)
        self.truncated = truncated


def is_stream(name: str | os.PathLike[str]) -> bool:
    """Whether `name` can be read only once: `-`, a FIFO, a socket, a terminal."""
    if os.fspath(name) == STDIN:
        return True
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def input_file(name: str | os.PathLike[str], *, stdin: BinaryIO | None = None) -> InputFile:
    """The file `name`, ready to be read; a stream is copied first.

    Raises InputError where it is absent, a directory or a device without end, StorageError where it cannot be read or
    copied.
    """
    shown = os.fspath(name)
    if shown == STDIN:
        return _spooled(stdin or sys.stdin.buffer, "<stdin>")
    path = local_path(shown)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError("no such file", where=shown, remedy="check the path") from None
    except OSError as error:
        raise StorageError(
            f"cannot be read: {error.strerror}", where=shown, remedy="check the path and its permissions"
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError("is a directory", where=shown, remedy="name a file")
    if stat.S_ISREG(status.st_mode):
        return InputFile(shown, path, status.st_size, status.st_mtime_ns)
    if stat.S_ISBLK(status.st_mode) or (stat.S_ISCHR(status.st_mode) and not _ends(path)):
        raise InputError("is a device", where=shown, remedy="name a file or a pipe")
    try:
        with path.open("rb") as stream:
            return _spooled(stream, shown)
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", where=shown) from error


def plain_file(name: str | os.PathLike[str], *, stdin: BinaryIO | None = None) -> InputFile:
    """As `input_file`, and uncompressed: a compressed file is unpacked to a temporary copy that can be sought in.

    Raises InputError for a damaged or truncated compressed file as well.
    """
    file = input_file(name, stdin=stdin)
    with open_bytes(file) as raw:
        if compression(raw.read(MAGIC_BYTES)) is None:
            return file
        raw.seek(0)
        try:
            with _TemporaryCopy(file.name) as (copy, finish):
                for block in decompressed_blocks(raw):
                    copy.write(block)
                unpacked = finish()
        except CompressionError as error:
            what = "truncated" if error.truncated else "damaged"
            raise InputError(f"{what} compressed file: {error}", where=file.name, remedy="fetch it again") from error
    return unpacked


def open_bytes(file: InputFile) -> BinaryIO:
    """The raw bytes of `file`. Raises StorageError where they cannot be opened."""
    try:
        return file.path.open("rb")
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", where=file.name) from error


def compression(head: bytes) -> str | None:
    """`gzip`, `bzip2`, `xz`, `zstandard`, or None for a stream that begins with `head` (MAGIC_BYTES of it do)."""
    return next((kind for kind, magic in _MAGIC.items() if head.startswith(magic)), None)


def decompressed_blocks(raw: BinaryIO) -> Iterator[bytes]:
    """The content of an open, seekable stream from its beginning, in blocks of a MiB or so; plain streams as they are.

    What stands before the damage in a broken file comes out before the CompressionError.
    """
    raw.seek(0)
    kind = compression(raw.read(MAGIC_BYTES))
    raw.seek(0)
    read = _READERS[kind](raw) if kind is not None else lambda: raw.read(BLOCK_BYTES)
    while True:
        try:
            block = read()
        except EOFError as error:
            raise CompressionError("it ends inside a compressed member", truncated=True) from error
        except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's trouble, not the file's
            raise CompressionError(str(error) or type(error).__name__) from error
        if not block:
            return
        yield block


def _gzip(raw: BinaryIO) -> Callable[[], bytes]:
    stream = gzip.GzipFile(fileobj=raw)
    return lambda: stream.read1(BLOCK_BYTES)  # read1, not read: what precedes damage comes out first


def _bzip2(raw: BinaryIO) -> Callable[[], bytes]:
    stream = bz2.BZ2File(raw)
    return lambda: stream.read1(BLOCK_BYTES)


def _xz(raw: BinaryIO) -> Callable[[], bytes]:
    stream = lzma.LZMAFile(raw)  # noqa: SIM115
    return lambda: stream.read1(BLOCK_BYTES)


def _zstandard(raw: BinaryIO) -> Callable[[], bytes]:
    """Frame by frame, so that a frame that is cut short is told from the end of the file."""
    frame: Any = None
    rest = b""

    def read() -> bytes:
        nonlocal frame, rest
        while data := rest or raw.read(_ZSTD_BYTES_AT_ONCE):
            if frame is None:
                frame = zstandard.ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW).decompressobj()
            block, rest = frame.decompress(data), b""
            if frame.eof:
                frame, rest = None, frame.unused_data
            if block:
                return bytes(block)
        if frame is not None:
            raise EOFError
        return b""

    return read


_READERS: Final[dict[str, Callable[[BinaryIO], Callable[[], bytes]]]] = {
    "gzip": _gzip,
    "bzip2": _bzip2,
    "xz": _xz,
    "zstandard": _zstandard,
}


def _ends(device: Path) -> bool:
    """Whether a character device is one that ends: a terminal, or the null device."""
    if os.path.realpath(device) == os.path.realpath(os.devnull):
        return True
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.isatty(descriptor)
    finally:
        os.close(descriptor)


class _TemporaryCopy:
    """A temporary file being written; `finish` makes it the InputFile called `name`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> tuple[BinaryIO, Callable[[], InputFile]]:
        try:
            descriptor, path = tempfile.mkstemp(prefix="glimmer-input-")
        except OSError as error:
            where = tempfile.gettempdir()
            raise StorageError(
                f"cannot be copied to {where}: {error.strerror}", where=self._name, remedy="set TMPDIR"
            ) from error
        self._path = temporary.temporary_path(Path(path))
        self._hash, self._size = hashlib.sha256(), 0
        self._file = _Hashing(os.fdopen(descriptor, "wb"), self._hash.update)
        return cast(BinaryIO, self._file), self._finish

    def _finish(self) -> InputFile:
        self._file.close()
        file = InputFile(self._name, self._path, self._path.stat().st_size, self._hash.hexdigest())
        weakref.finalize(file, temporary.remove, self._path)
        return file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None:
            self._file.close()
            temporary.remove(self._path)
        if isinstance(error, OSError):
            where = tempfile.gettempdir()
            raise StorageError(
                f"cannot be copied to {where}: {error.strerror}", where=self._name, remedy="set TMPDIR"
            ) from error


class _Hashing(io.RawIOBase):
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO, update: Callable[[bytes], None]) -> None:
        self._file, self._update = file, update

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._update(data)
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _spooled(stream: BinaryIO, name: str) -> InputFile:
    with _TemporaryCopy(name) as (copy, finish):
        shutil.copyfileobj(stream, copy, BLOCK_BYTES)
        return finish()
