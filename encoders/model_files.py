"""Opening a model's files: plain files alone, and no more bytes than such a file can have.

A model directory comes from outside. A link to a device never ends, a FIFO never answers, and a damaged file may make a
library ask for more memory than there is: each is a `ModelError` that names the file.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .. import GlimmerError, ModelError


def open_plain(path: Path) -> BinaryIO:
    """Opens a plain file for reading; links are followed. ModelError when it is absent or of another kind."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # before it is opened, which can have effects on a device
            raise ModelError(f"{path}: not a plain file")
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ModelError(f"{path}: not a plain file")
    return file


def read_plain(path: Path, most: int) -> bytes:
    """The bytes of a plain file that has at most `most` of them; ModelError otherwise, before they are read."""
    with open_plain(path) as file, understood(path, "cannot be read"):
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ModelError(f"{path}: has {size:,} bytes, more than such a file ever has ({most:,})")
        content = file.read(size + 1)
    if len(content) != size:
        raise ModelError(f"{path}: its size changes while it is read")
    return content


@contextlib.contextmanager
def understood(path: Path, what: str) -> Iterator[None]:
    """Turns what libraries raise over a damaged file (Rust's panics and MemoryError too) into a one-line ModelError.

    The message is `<path>: <what>: <the library's words>`.
    """
    try:
        yield
    except GlimmerError:
        raise
    except MemoryError:
        raise ModelError(f"{path}: {what}: it asks for more memory than there is") from None
    except BaseException as error:
        # A panic derives from BaseException, as do the interrupts that must pass.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        words = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise ModelError(f"{path}: {what}: {(words or type(error).__name__)[:300]}") from None
