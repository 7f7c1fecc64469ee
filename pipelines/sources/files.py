"""Files behind a source: local paths, directories, globs and fsspec URLs, opened as streams and read line by line.

A 35 GB file is never held: blocks of 1 MiB are decompressed and split as they come. Reading reports how far it is
through the compressed file, for progress.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import fsspec

from ... import InputError, StorageError

BLOCK_BYTES: Final = 1 << 20
MAX_LINE_BYTES: Final = 1 << 30
GZIP_MAGIC: Final = b"\x1f\x8b"
BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source. `name` is what messages and `place` call it; `size` is in bytes, compressed as it stands.

    `stamp` changes when the content does: modification time in ns for local files, fsspec's `ukey` otherwise.
    """

    name: str
    size: int
    stamp: int | str
    filesystem: Any = None

    def open(self) -> BinaryIO:
        """The raw bytes. Raises InputError where the file cannot be opened."""
        try:
            if self.filesystem is None:
                return open(self.name, "rb")
            return cast(BinaryIO, self.filesystem.open(self.filesystem._strip_protocol(self.name), "rb"))
        except OSError as error:
            raise InputError(f"{self.name}: cannot be opened: {error.strerror or error}") from error


def is_url(source: str) -> bool:
    """Whether `source` is an fsspec URL such as gs://bucket/path."""
    return "://" in source


def resolve(source: str) -> list[SourceFile]:
    """The files a source names, in a fixed order (sorted by path).

    A directory stands for every file under it whose name does not begin with "." or "_". Raises InputError when there
    is nothing to read.
    """
    return _resolve_url(source) if is_url(source) else _resolve_local(source)


def _resolve_local(source: str) -> list[SourceFile]:
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        found = [str(p) for p in sorted(Path(path).rglob("*")) if p.is_file() and _visible(str(p.relative_to(path)))]
        if not found:
            raise InputError(f"{source}: the directory has no files to read")
    elif os.path.exists(path) or not has_magic(path):
        found = [path]
    else:
        found = sorted(p for p in glob(path, recursive=True) if os.path.isfile(p))
        if not found:
            raise InputError(f"{source}: no file matches")
    try:
        return [SourceFile(p, (s := os.stat(p)).st_size, s.st_mtime_ns) for p in found]
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; check the path") from error


def _resolve_url(source: str) -> list[SourceFile]:
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
    except (ImportError, ValueError) as error:
        raise InputError(f"{source}: {error}; install the extra of that store (gcp, s3)") from error
    try:
        if has_magic(path):
            found = sorted(p for p in filesystem.glob(path) if filesystem.isfile(p))
        elif filesystem.isdir(path):
            root = path.rstrip("/") + "/"
            found = sorted(p for p in filesystem.find(path) if _visible(p.removeprefix(root)))
        else:
            found = [path] if filesystem.exists(path) else []
        if not found:
            raise InputError(f"{source}: nothing to read there; check the URL")
        names = [str(filesystem.unstrip_protocol(p)) for p in found]
        sizes = [int(filesystem.size(p) or 0) for p in found]
        stamps = [str(filesystem.ukey(p)) for p in found]
    except OSError as error:
        raise InputError(f"{source}: cannot be listed: {error}") from error
    return [SourceFile(n, s, k, filesystem) for n, s, k in zip(names, sizes, stamps, strict=True)]


def _visible(relative: str) -> bool:
    return not any(part.startswith((".", "_")) for part in relative.split("/"))


@contextmanager
def reading(file: SourceFile) -> Iterator[BinaryIO]:
    """The file's raw bytes; a failing disk or network inside the block becomes StorageError naming the file."""
    stream = file.open()
    try:
        with stream:
            yield stream
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile):
            raise
        raise StorageError(f"{file.name}: reading failed: {error}; run the job again to resume") from error


def read_lines(file: SourceFile, advance: Callable[[float], None] | None = None) -> Iterator[tuple[int, bytes]]:
    """Numbered lines (from 1) of a plain or gzipped file, without line ends; blank lines are counted, not yielded.

    `advance` is told the share of the file read so far. Raises InputError for a truncated or damaged gzip (after every
    whole line before the damage) and for a line of more than 1 GiB.
    """
    with reading(file) as raw:
        number, carry = 0, list[bytes]()
        held = 0
        blocks = _blocks(raw)
        while block := _next(blocks, file, raw, number + 1):
            if advance is not None:
                advance(raw.tell() / file.size if file.size else 1.0)
            head, *rest = block.split(b"\n")
            carry.append(head)
            held += len(head)
            if held > MAX_LINE_BYTES:
                raise InputError(
                    f"{file.name}:{number + 1}: a line of more than {MAX_LINE_BYTES:,} bytes; not line data"
                )
            if not rest:
                continue
            rest.insert(0, b"".join(carry))
            carry = [rest.pop()]
            held = len(carry[0])
            for line in rest:
                number += 1
                if number == 1:
                    line = line.removeprefix(BOM)
                if line and not line.isspace():
                    yield number, line.removesuffix(b"\r")
        line = b"".join(carry).removesuffix(b"\r")
        if number == 0:
            line = line.removeprefix(BOM)
        if line and not line.isspace():
            yield number + 1, line


def _blocks(raw: BinaryIO) -> Iterator[bytes]:
    """Decompressed blocks of a plain or gzipped stream."""
    magic = raw.read(2)
    raw.seek(0)
    if magic == GZIP_MAGIC:
        inflated = gzip.GzipFile(fileobj=raw)
        # read1, not read: what stands before the damage in a broken file comes out before the error.
        yield from iter(lambda: inflated.read1(BLOCK_BYTES), b"")
    else:
        yield from iter(lambda: raw.read(BLOCK_BYTES), b"")


def _next(blocks: Iterator[bytes], file: SourceFile, raw: BinaryIO, line: int) -> bytes:
    """The next block, empty at the end; `line` is the line that is being read, for messages."""
    try:
        return next(blocks, b"")
    except EOFError as error:
        what = f"truncated gzip: the file ends at byte {file.size:,} inside this line or right before it"
        raise InputError(f"{file.name}:{line}: {what}; fetch it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        what = f"damaged gzip near byte {raw.tell():,} ({error})"
        raise InputError(f"{file.name}:{line}: {what}; fetch it again") from error
