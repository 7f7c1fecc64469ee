"""One file of a source, wherever it lies: what it is called, how large it is, and its bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ... import InputError, StorageError
from ...storage.inputs import InputFile


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source.

    Attributes:
        name: what messages and `Article.place` call it.
        size: bytes, compressed as they stand.
        stamp: changes when the content does: modification time in ns for local files, fsspec's `ukey` otherwise, the
            SHA-256 of a copied stream.
        filesystem: fsspec's, for a URL.
        path: where a local file is; None takes `name`.
        stream: the temporary copy of a stream, which lives as long as this object.
    """

    name: str
    size: int
    stamp: int | str
    filesystem: Any = None
    path: Path | None = None
    stream: InputFile | None = None

    def open(self) -> BinaryIO:
        """The raw bytes. Raises InputError where the file cannot be opened."""
        try:
            if self.filesystem is None:
                return open(self.path or self.name, "rb")
            return cast(BinaryIO, self.filesystem.open(self.filesystem._strip_protocol(self.name), "rb"))
        except OSError as error:
            raise InputError(f"{self.name}: cannot be opened: {error.strerror or error}") from error

    def identity(self) -> dict[str, Any]:
        """What tells whether the file changed, JSON-able; of a stream its content, whatever it was called."""
        if self.stream is not None:
            return {"stream": self.stamp, "size": self.size}
        path = self.name if self.filesystem is not None else os.path.realpath(self.path or self.name)
        return {"path": path, "size": self.size, "stamp": self.stamp}


@contextmanager
def reading(file: SourceFile) -> Iterator[BinaryIO]:
    """The file's raw bytes; a failing disk or network inside the block becomes StorageError naming the file."""
    stream = file.open()
    try:
        with stream:
            yield stream
    except OSError as error:
        raise StorageError(f"{file.name}: reading failed: {error}; run the job again to resume") from error
