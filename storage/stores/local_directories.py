"""Local directories that another library reads and writes: put in place at once, opened without a write, shared.

The first-stage index is one, for tantivy opens local directories alone.

A reader may open an index while another process puts a new one in its place, and a memory may stand on a read-only
disk, while tantivy wants to write a lock beside the files it opens. So an index is opened through a directory of links
of its own, and only the files that its manifest names are there to be seen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ... import StorageError
from .. import temporary

ATTEMPTS: Final = 20
_PAUSE_S = 0.01


def pause(attempt: int) -> None:
    """Waits a little, longer each time, for another process that is exchanging a directory; at most 0.1 s."""
    time.sleep(min(_PAUSE_S * (attempt + 1), 0.1))


@contextlib.contextmanager
def new_beside(directory: Path) -> Iterator[Path]:
    """A new directory beside `directory`, to be filled and put in its place; removed if it was not. OSError.

    A killed process leaves one behind, under a name that a vacuum knows.
    """
    path = temporary.temporary_path(directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:12]}.tmp"))
    try:
        path.mkdir(parents=True)
        yield path
    finally:
        temporary.remove(path)


def put_in_place(made: Path, directory: Path) -> None:
    """Flushes the directory `made` to disk and renames it to `directory`; what is there makes way. Raises OSError."""
    for path in (*made.iterdir(), made):
        _force_to_disk(path)
    for attempt in range(ATTEMPTS):
        old = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:12]}.old")
        try:
            with contextlib.suppress(FileNotFoundError):
                directory.rename(old)
            made.rename(directory)
            break
        except OSError:
            # Another process moved its own in or out in between; anything else persists and is raised.
            if attempt == ATTEMPTS - 1:
                raise
            pause(attempt)
        finally:
            temporary.remove(old)
    _force_to_disk(directory.parent)


def remove_hidden(directory: Path) -> None:
    """Deletes the files of `directory` whose names begin with a dot: locks and lists of its writer. Raises OSError."""
    for path in directory.glob(".*"):
        path.unlink()


def is_being_replaced(directory: Path) -> bool:
    """Whether `directory` may be missing for a moment only, since the one that it replaces is still there."""
    return any(directory.parent.glob(f".{directory.name}.*.old"))


def share(source: Path, names: Iterable[str], target: Path) -> None:
    """Puts files of `source` into `target` too: as hard links, or copied where there can be none. Raises OSError."""
    for name in names:
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copyfile(source / name, target / name)


@contextlib.contextmanager
def linked(directory: Path, names: Iterable[str]) -> Iterator[Path]:
    """A temporary directory of links to files of `directory`; that itself where no temporary one can be made."""
    with contextlib.ExitStack() as stack:
        try:
            seen = stack.enter_context(temporary.temporary_directory("glimmer-open-"))
            for name in names:
                (seen / name).symlink_to((directory / name).absolute())
        except (StorageError, OSError):
            seen = directory
        yield seen


def _force_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
