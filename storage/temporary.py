"""Temporary files and directories of this process, all known in one place, so that every way out removes them.

Copies of standard input, unpacked models, files that are about to be renamed: each is registered when it is made. They
go when their user is done, when the process ends, and when an interrupted command leaves at once.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .. import StorageError

_paths: dict[Path, int] = {}
"""Path -> the process that made it: a forked child must not remove its parent's."""


def temporary_path(path: Path) -> Path:
    """Registers `path`, which the caller is about to make; returns it."""
    _paths[path] = os.getpid()
    return path


def release(path: Path) -> None:
    """Forgets `path`: it has become something lasting, or is gone."""
    _paths.pop(path, None)


def remove(path: Path) -> None:
    """Deletes a file or directory if it is there, registered or not; of a link, the link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    release(path)


def remove_all() -> None:
    """Deletes whatever this process still has registered."""
    for path, owner in list(_paths.items()):
        if owner == os.getpid():
            remove(path)


def new_directory(prefix: str, parent: Path | None = None) -> Path:
    """A new empty directory, registered; in `parent`, or where the system keeps temporary files. StorageError."""
    try:
        return temporary_path(Path(tempfile.mkdtemp(prefix=prefix, dir=parent)))
    except OSError as error:
        where = parent or tempfile.gettempdir()
        raise StorageError(f"no temporary directory can be made: {error.strerror or error}", where=where) from error


@contextlib.contextmanager
def temporary_directory(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new empty directory that is gone when the block ends. Raises StorageError where none can be made."""
    path = new_directory(prefix, parent)
    try:
        yield path
    finally:
        remove(path)


atexit.register(remove_all)
