"""File locks: one process at a time for a job, and commits kept apart from a vacuum.

The kernel holds them (`flock`) and lets go when the process ends, however it ends, so nothing stale is ever left. A
lock file may be deleted by whoever holds it: the next holder checks that what it locked is still the file of that name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import GlimmerError, StorageError
from .files import translated


@contextlib.contextmanager
def held(
    path: Path, *, busy: Callable[[str], GlimmerError], shared: bool = False, wait: bool = False
) -> Iterator[None]:
    """Holds a lock on the file `path`, made if absent, until the block or the process ends.

    Args:
        path: the lock file; its directory exists.
        busy: makes the error to raise when somebody else holds the lock, from words for who that is.
        shared: several may hold it at once, as long as nobody holds it alone.
        wait: wait for the lock instead of raising.

    Raises what `busy` makes, or StorageError when the file system refuses.
    """
    with contextlib.ExitStack() as stack:
        with translated(path, lambda text: StorageError(f"{path}: {text}")):
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                closing = stack.enter_context(contextlib.ExitStack())
                closing.callback(os.close, descriptor)
                try:
                    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
                    fcntl.flock(descriptor, mode if wait else mode | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                        raise
                    holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                    raise busy(holder or "another process") from None
                if _is_file_of_that_name(descriptor, path):
                    break
                closing.close()
            if not shared:
                with contextlib.suppress(OSError):  # a courtesy to others, which a full disk may refuse
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield


def _is_file_of_that_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Whether anybody holds the lock on `path` alone; makes no file."""
    with contextlib.ExitStack() as stack, translated(path, lambda text: StorageError(f"{path}: {text}")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        stack.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            return True
        return False
