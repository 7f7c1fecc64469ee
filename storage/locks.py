"""Locks: one process at a time for a job, and commits kept apart from a vacuum.

Locks on files are held by the kernel (`flock`), which lets go when the process ends, however it ends, so nothing stale
is ever left. A lock file may be deleted by whoever holds it: the next holder checks that what it locked is still the
file of that name. `NamedLocks` are the same between the threads of one process, for memories that have no files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import GlimmerError, StorageError
from .files import translated


def this_process() -> str:
    """What this process is called in displays and errors, on whatever machine they are read."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def lock_open_file(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool:
    """Locks an open file until it is closed; False if another process holds it. OSError where there are no locks."""
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, mode if wait else mode | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


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
        with translated(path, lambda text: StorageError(text, where=path)):
            while True:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                closing = stack.enter_context(contextlib.ExitStack())
                closing.callback(os.close, descriptor)
                if not lock_open_file(descriptor, shared=shared, wait=wait):
                    holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                    raise busy(holder or "another process")
                if _is_file_of_that_name(descriptor, path):
                    break
                closing.close()
            if not shared:
                with contextlib.suppress(OSError):  # a courtesy to others, which a full disk may refuse
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, f"{this_process()}\n".encode(), 0)
        yield


def _is_file_of_that_name(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Whether anybody holds the lock on `path` alone; makes no file."""
    with contextlib.ExitStack() as stack, translated(path, lambda text: StorageError(text, where=path)):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        stack.callback(os.close, descriptor)
        return not lock_open_file(descriptor, shared=True)


class NamedLocks:
    """Locks by name between the threads of this process, with the rules of `held`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing: Counter[str] = Counter()
        self._alone: dict[str, str] = {}

    @contextlib.contextmanager
    def held(
        self, name: str, *, busy: Callable[[str], GlimmerError], shared: bool = False, wait: bool = False
    ) -> Iterator[None]:
        """Holds the lock `name` until the block ends; arguments and errors are those of the function `held`."""
        with self._changed:
            while name in self._alone or (not shared and self._sharing[name]):
                if not wait:
                    raise busy(self._alone.get(name, "another thread"))
                self._changed.wait()
            if shared:
                self._sharing[name] += 1
            else:
                self._alone[name] = threading.current_thread().name
        try:
            yield
        finally:
            with self._changed:
                if shared:
                    self._sharing[name] -= 1
                else:
                    del self._alone[name]
                self._changed.notify_all()

    def is_held(self, name: str) -> bool:
        """Whether a thread holds the lock `name` alone."""
        with self._changed:
            return name in self._alone
