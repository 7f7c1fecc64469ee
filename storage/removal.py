"""Deletion inside a memory: nothing is ever deleted through a link.

A memory that came from elsewhere may have a link where a directory should be, `segments/` for instance, which leads to
somebody's files. So every deletion names the directory it must stay in. The way from there to what is deleted is
opened directory by directory, links refused, and the deletion is relative to the last one opened: whatever is renamed
or linked meanwhile, nothing outside is reached. The memory itself may be named by a link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from .. import DamageError, StorageError
from .files import REMOVED_PREFIX, translated
from .paths import local_path

DIRECTORIES: Final = ("codec", "passages", "passages/_delta_log", "segments", "indexes", "jobs")
"""The directories of a memory, relative to it."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def refuse_links(memory: Path) -> None:
    """Raises DamageError if one of a memory's own directories is a link: jobs that write or delete ask this first."""
    for name in DIRECTORIES:
        if (memory / name).is_symlink():
            raise _link(memory / name)


def remove_file(path: Path, *, within: Path) -> None:
    """Deletes a file if it is there; of a link, the link itself.

    Raises DamageError where a directory between `within` and it is a link, StorageError.
    """
    with translated(path, lambda text: StorageError(text, where=path)), _opened(path.parent, within) as parent:
        if parent is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path.name, dir_fd=parent)


def remove_tree(directory: Path, *, within: Path) -> None:
    """Deletes `directory` so that it is whole or gone for whoever looks: renamed first, then emptied.

    A crash leaves a name with REMOVED_PREFIX, which the next vacuum deletes whatever its age: nobody uses what was
    being deleted. Two processes may delete the same directory. Does nothing if it is not there. Raises DamageError
    where `directory`, or a directory between `within` and it, is a link; links inside it are deleted, not followed.
    Raises StorageError.
    """
    doomed = f"{REMOVED_PREFIX}{secrets.token_hex(8)}"
    with (
        translated(directory, lambda text: StorageError(text, where=directory)),
        _opened(directory.parent, within) as parent,
    ):
        if parent is None:
            return
        try:
            if stat.S_ISLNK(os.stat(directory.name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise _link(directory)
            os.rename(directory.name, doomed, src_dir_fd=parent, dst_dir_fd=parent)
        except FileNotFoundError:
            return
        os.fsync(parent)
        shutil.rmtree(doomed, dir_fd=parent, onerror=_tolerate_missing)


def _tolerate_missing(
    _function: Callable[..., object], _path: str, info: tuple[type[BaseException], BaseException, TracebackType]
) -> None:
    """What another process deleted first is what was asked for."""
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]


@contextlib.contextmanager
def _opened(directory: Path, within: Path) -> Iterator[int | None]:
    """A descriptor of `directory`, reached from `within` without following a link; None if it is not there."""
    within = local_path(within)
    parts = local_path(directory).relative_to(within).parts
    with contextlib.ExitStack() as stack:
        found: int | None = None
        try:
            found = os.open(within, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, found)
            for number, name in enumerate(parts):
                try:
                    found = os.open(name, _DIRECTORY, dir_fd=found)
                except OSError as error:
                    place = within.joinpath(*parts[: number + 1])
                    if error.errno in (errno.ELOOP, errno.ENOTDIR) and place.is_symlink():
                        raise _link(place) from None
                    raise
                stack.callback(os.close, found)
        except FileNotFoundError:
            found = None
        yield found


def _link(path: Path) -> DamageError:
    return DamageError(
        f"{path}: a link, and nothing is deleted through a link inside a memory; put the directory itself in its "
        f"place (to keep a memory elsewhere, link the whole of it)"
    )
