"""A memory in a directory of this machine, or of a file system that is mounted like one.

Files are written under a temporary name, flushed, renamed, and the directory flushed. Only plain files are read, after
a look at their size. Nothing is deleted through a link. Locks are the kernel's.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Literal

from ... import GlimmerError, StorageError, UsageError
from .. import locks
from ..files import (
    TEMPORARY_PREFIX,
    file_system_time,
    make_directories,
    one_line,
    open_regular,
    read_regular,
    sha256_file,
    storage_error,
    sync_directory,
    sync_file,
    write_atomic,
)
from ..paths import local_path
from ..removal import refuse_links, remove_file, remove_tree
from .protocol import Content, Entry, Store

_NO_HARD_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LocalStore(Store):
    """The directory `root`, which need not exist yet; `~` and `file://` are understood. UsageError for other URLs."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = local_path(root)
        super().__init__(self.root)

    def name(self, key: str = "") -> str:
        return str(self.root / key)

    def local_path(self, key: str = "") -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise UsageError(f"{key!r} is not the name of anything in a memory", where=self.root)
        return self.root / key

    # Reading.

    def read(self, key: str, *, size: int | None = None, most: int | None = None) -> bytes:
        return read_regular(self.local_path(key), size=size, most=most)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with open_regular(self.local_path(key)) as file:
            file.seek(start)
            return file.read(length)

    def buffer(self, key: str) -> memoryview:
        with open_regular(self.local_path(key)) as file:
            if not os.fstat(file.fileno()).st_size:
                return memoryview(b"")  # which cannot be mapped
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def sha256(self, key: str) -> tuple[str, int]:
        return sha256_file(self.local_path(key))

    def stat(self, key: str) -> Entry | None:
        try:
            status = os.stat(self.local_path(key))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            return None
        return Entry(key, _kind(status), status.st_size, status.st_mtime)

    def entries(self, prefix: str = "") -> list[Entry]:
        directory = self.local_path(prefix)
        found = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # deleted since
                        found.append(_listed(prefix, entry))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise storage_error(directory, error) or StorageError(one_line(error), where=directory) from error
        return sorted(found, key=lambda entry: entry.key)

    def names(self, prefix: str = "") -> list[str]:
        directory = self.local_path(prefix)
        try:
            return os.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise storage_error(directory, error) or StorageError(one_line(error), where=directory) from error

    def walk(self, key: str) -> Iterator[Entry]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = self.local_path(key).lstat()
            yield Entry(key, _kind(status), status.st_size, status.st_mtime, stat.S_ISLNK(status.st_mode))
            if stat.S_ISDIR(status.st_mode):
                for name in os.listdir(self.local_path(key)):
                    yield from self.walk(f"{key}/{name}" if key else name)

    # Writing.

    def put(self, key: str, content: Content) -> None:
        path = self._with_parent(key)
        try:
            write_atomic(path, content)
        except OSError as error:  # of a kind that `write_atomic` has no advice for
            raise StorageError(one_line(error), where=path) from error

    def put_if_absent(self, key: str, content: bytes) -> bool:
        path = self._with_parent(key)
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(4)}")
        with self.refusals(key):
            write_atomic(temporary, content)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                if path.exists():  # as good as such a file system can do
                    return False
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_directory(path.parent)
        return True

    def move(self, key: str, to: str) -> None:
        target = self._with_parent(to)
        with self.refusals(to):
            os.replace(self.local_path(key), target)
            sync_directory(target.parent)

    def sync(self, key: str) -> None:
        path = self.local_path(key)
        with self.refusals(key):
            sync_file(path)
            sync_directory(path.parent)
            sync_directory(path.parent.parent)

    def delete(self, key: str) -> None:
        remove_file(self.local_path(key), within=self.root)

    def delete_tree(self, prefix: str) -> None:
        remove_tree(self.local_path(prefix), within=self.root)

    def _with_parent(self, key: str) -> Path:
        path = self.local_path(key)
        if not path.parent.is_dir():
            make_directories(path.parent)
        return path

    # What other libraries need.

    def kvstore(self, prefix: str) -> dict[str, Any]:
        return {"driver": "file", "path": f"{self.local_path(prefix)}/"}

    def delta(self, prefix: str) -> tuple[str, dict[str, str]]:
        place = self.local_path(prefix).absolute()
        if "%" in str(place):
            raise UsageError("Delta Lake misreads a % in a path", where=place, remedy="choose a place without one")
        return place.as_uri(), {}

    # Jobs.

    def clock(self) -> float:
        return file_system_time(self.root)

    def lock(
        self, key: str, *, busy: Callable[[str], GlimmerError], shared: bool = False, wait: bool = False
    ) -> AbstractContextManager[None]:
        return locks.held(self._with_parent(key), busy=busy, shared=shared, wait=wait)

    def is_locked(self, key: str) -> bool:
        return locks.is_held(self.local_path(key))

    def remove_if_empty(self, *prefixes: str) -> None:
        for prefix in prefixes:
            with contextlib.suppress(OSError):  # not empty, or never made
                self.local_path(prefix).rmdir()

    def refuse_links(self) -> None:
        refuse_links(self.root)

    def is_writable(self) -> bool:
        return os.access(self.root, os.W_OK)


def _listed(prefix: str, entry: os.DirEntry[str]) -> Entry:
    status, link = entry.stat(follow_symlinks=False), entry.is_symlink()
    kind: Literal["file", "directory", "other"] = (
        ("file" if entry.is_file() else "directory" if entry.is_dir() else "other") if link else _kind(status)
    )
    return Entry(f"{prefix}/{entry.name}" if prefix else entry.name, kind, status.st_size, status.st_mtime, link)


def _kind(status: os.stat_result) -> Literal["file", "directory", "other"]:
    if stat.S_ISREG(status.st_mode):
        return "file"
    return "directory" if stat.S_ISDIR(status.st_mode) else "other"
