"""One file of a source, wherever it lies: what it is called, how large it is, and its bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from ... import InputError, StorageError
from ...storage.inputs import InputFile


@dataclass(slots=True)
class Span:
    """A part of a file that is read by itself.

    Attributes:
        start, end: of text, in bytes: the lines that begin there; of a table, its row groups.
        rows_before: rows of the table that stand before it.
        lines: of text, how many lines it has; complete once it has been read to its end.
    """

    start: int
    end: int
    rows_before: int = 0
    lines: int = 0


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source.

    Attributes:
        name: what messages and `Article.place` call it.
        size: bytes, compressed as they stand.
        stamp: of a local file its modification time in ns, which tells that it is changed while it is read; of a copied
            stream its SHA-256; of a URL nothing.
        filesystem: fsspec's, for a URL.
        path: where a local file is; None takes `name`.
        stream: the temporary copy of a stream, which lives as long as this object.
        span: the part of the file that is read; None for all of it.
    """

    name: str
    size: int
    stamp: int | str | None
    filesystem: Any = None
    path: Path | None = None
    stream: InputFile | None = None
    span: Span | None = None

    def open(self) -> BinaryIO:
        """The raw bytes. Raises InputError where the file cannot be opened."""
        try:
            if self.filesystem is None:
                return open(self.path or self.name, "rb")
            return cast(BinaryIO, self.filesystem.open(self.filesystem._strip_protocol(self.name), "rb"))
        except OSError as error:
            raise InputError(f"{self.name}: cannot be opened: {error.strerror or error}") from error

    def info(self) -> dict[str, Any]:
        """What the store of a URL knows of the file, by fsspec's names. Raises InputError where it does not answer."""
        try:
            return dict(self.filesystem.info(self.filesystem._strip_protocol(self.name)))
        except OSError as error:
            raise InputError(f"{self.name}: cannot be looked at: {error.strerror or error}") from error

    def for_others(self) -> SourceFile:
        """The file as another process finds it. The copy of a stream goes with the file that has it."""
        path = Path(self.path or self.name).absolute() if self.filesystem is None else self.path
        return replace(self, path=path, stream=None)

    def changed(self) -> bool:
        """Whether a local file has another size or modification time than when it was listed, or is gone."""
        if self.filesystem is not None or self.stream is not None:
            return False
        try:
            status = os.stat(self.path or self.name)
        except OSError:
            return True
        return (status.st_size, status.st_mtime_ns) != (self.size, self.stamp)


@contextmanager
def reading(file: SourceFile) -> Iterator[BinaryIO]:
    """The file's raw bytes; a failing disk or network inside the block becomes StorageError naming the file."""
    stream = file.open()
    try:
        with stream:
            yield stream
    except OSError as error:
        raise StorageError(f"{file.name}: reading failed: {error}; run the job again to resume") from error
