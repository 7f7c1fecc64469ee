"""The protocol between a memory and the place where its bytes lie.

A memory is a set of files with keys such as `segments/<id>/codes/c.0.0.0`, relative to the memory, parts separated by
`/`. Everything under a memory is read, written, listed, locked and deleted through a `Store`. What is asked of a place
is what object stores have too: files that appear whole or not at all, conditional creation, listings with sizes and
times. There are no open files, no appending, and no renaming of directories; a directory is there while it has files.

A subclass implements the abstract methods. The others have defaults that are right for any place, and that a place
overrides where it can do better: map a file into memory, say, or hash it without holding it.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import io
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal, TypeAlias, TypeVar

from ... import DamageError, GlimmerError, StorageError
from ...progress import POLL_INTERVAL_S
from ..files import translated

_BLOCK = 1 << 23
_T = TypeVar("_T")
_Item = TypeVar("_Item")

Content: TypeAlias = bytes | Callable[[BinaryIO], None]
"""What a file is to hold: the bytes, or a function that writes them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a listing says of one name.

    Attributes:
        key: relative to the memory.
        kind: what is there, links followed; "other" is no plain file, such as a FIFO or a link that leads nowhere.
        size: bytes; of a link, of the link itself.
        modified: when it was last changed, in seconds since 1970 by the store's clock.
        link: it is a symbolic link.
    """

    key: str
    kind: Literal["file", "directory", "other"]
    size: int
    modified: float
    link: bool = False

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]


class Store(ABC):
    """A place for one memory. Safe to use from many threads, and to send to another process.

    Reading raises FileNotFoundError where there is no such file, DamageError where what is there cannot be one of a
    memory's files, and OSError or StorageError where the place refuses. Writing raises StorageError.

    Attributes:
        location: how a person names the place: what `open_store` made this store from, in full.
        of_this_process: no other process can see what is stored there.
        remote: every read is a request to another machine: derived files are kept in the user's cache directory.
        least_vacuum_age: a vacuum must not delete what is younger.
        poll_seconds: how often a driver may list a directory to see how far others are.
    """

    of_this_process: ClassVar[bool] = False
    remote: ClassVar[bool] = False
    least_vacuum_age: ClassVar[datetime.timedelta] = datetime.timedelta(0)
    poll_seconds: ClassVar[float] = POLL_INTERVAL_S

    def __init__(self, location: Path | str) -> None:
        self.location = location

    def __reduce__(self) -> tuple[Any, ...]:
        from .registry import open_store

        return open_store, (str(self.location),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.location)!r})"

    def name(self, key: str = "") -> str:
        """`key` as messages name it: with the location before it."""
        return f"{self.location}/{key}" if key else str(self.location)

    def refusals(self, key: str = "") -> AbstractContextManager[None]:
        """Turns foreign exceptions raised in the block into StorageErrors that name `key`."""
        name = self.name(key)
        return translated(name, lambda text: StorageError(text, where=name))

    # Reading.

    @abstractmethod
    def read(self, key: str, *, size: int | None = None, most: int | None = None) -> bytes:
        """The bytes of a file, which has `size` of them or at most `most`: DamageError for another size, unread."""

    @abstractmethod
    def read_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes of a file from byte `start` on; fewer where it ends before that."""

    def buffer(self, key: str) -> memoryview:
        """The bytes of a file to read here and there, mapped into memory where the place can do that."""
        return memoryview(self.read(key))

    def sha256(self, key: str) -> tuple[str, int]:
        """SHA-256 in hex and size in bytes of a file."""
        digest, size = hashlib.sha256(), 0
        while part := self.read_range(key, size, _BLOCK):
            digest.update(part)
            size += len(part)
        return digest.hexdigest(), size

    @abstractmethod
    def stat(self, key: str) -> Entry | None:
        """What is at `key`, links followed; None where nothing is."""

    def exists(self, key: str) -> bool:
        """Whether there is anything at `key`."""
        return self.stat(key) is not None

    def is_file(self, key: str) -> bool:
        """Whether there is a plain file at `key`."""
        entry = self.stat(key)
        return entry is not None and entry.kind == "file"

    @abstractmethod
    def entries(self, prefix: str = "") -> list[Entry]:
        """What is directly below `prefix`, by key, from one listing; empty where that does not exist. StorageError."""

    def names(self, prefix: str = "") -> list[str]:
        """The names directly below `prefix`, in any order: cheaper than `entries` where sizes cost something."""
        return [entry.name for entry in self.entries(prefix)]

    def walk(self, key: str) -> Iterator[Entry]:
        """What is at `key` and everything below it, links not followed."""
        entry = self.stat(key)
        if entry is not None:
            yield entry
            if entry.kind == "directory":
                for child in self.entries(key):
                    yield from self.walk(child.key)

    def tree_time(self, key: str) -> float:
        """When anything at `key` or below it was last changed, in seconds; -inf where nothing is there."""
        return max((entry.modified for entry in self.walk(key)), default=float("-inf"))

    def tree_size(self, key: str) -> int:
        """Bytes of all files at `key` or below it."""
        return sum(entry.size for entry in self.walk(key) if entry.link or entry.kind != "directory")

    def in_order(self, act: Callable[[_Item], _T], items: Iterable[_Item]) -> Iterator[_T]:
        """`act` of each of `items`, in their order, for acts that read: several at once where a read takes long.

        What an act raises is raised in its turn. Where several are at once, a few are done ahead of who takes them.
        """
        return map(act, items)

    # Writing.

    @abstractmethod
    def put(self, key: str, content: Content) -> None:
        """Writes a file so that it has all of the new content or stays what it was; durable when this returns."""

    @abstractmethod
    def put_if_absent(self, key: str, content: bytes) -> bool:
        """Like `put` where nothing is at `key`; of several that try at once exactly one gets True."""

    def move(self, key: str, to: str) -> None:
        """Gives a file another key, over what was there: at `to` it is whole or not at all."""
        self.put(to, self.read(key))
        self.delete(key)

    def sync(self, key: str) -> None:  # noqa: B027 (elsewhere what is written is durable)
        """Makes a file durable that another library wrote in this place, by the way that `delta` names."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes a file if it is there; never anything that lies outside the memory (DamageError)."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> None:
        """Deletes everything below `prefix`, so that no other process takes what is left for whole.

        Does nothing where nothing is. Never deletes anything that lies outside the memory (DamageError).
        """

    # What other libraries need to read and write here.

    def local_path(self, key: str = "") -> Path | None:
        """The file or directory of `key` on this machine, whether it exists or not; None where there are no such."""
        return None

    @abstractmethod
    def kvstore(self, prefix: str) -> dict[str, Any]:
        """The `kvstore` of a TensorStore spec for a Zarr array at `prefix`, to be opened in a context of `context`."""

    def context(self, settings: Mapping[str, Any]) -> Any:
        """The TensorStore context with `settings` for arrays of this store, one a process for equal settings."""
        return shared_context(None, json.dumps(settings, sort_keys=True))

    def delta(self, prefix: str) -> tuple[str, dict[str, str]] | None:
        """URI and storage options with which Delta Lake opens the table at `prefix`; None where it cannot.

        A catalog in such a place is committed by `put_if_absent`. UsageError for a place that Delta Lake misreads.
        """
        return None

    def repeated(self, ask: Callable[[], _T]) -> _T:
        """The answer to `ask`, another library's call that may be made twice: made again where that may help."""
        return ask()

    # Jobs.

    def clock(self) -> float:
        """What time it is by the clock that `Entry.modified` goes by, in seconds since 1970. StorageError."""
        return time.time()

    @abstractmethod
    def lock(
        self, key: str, *, busy: Callable[[str], GlimmerError], shared: bool = False, wait: bool = False
    ) -> AbstractContextManager[None]:
        """Holds the lock `key` until the block or the process ends.

        Args:
            key: of the lock; deleting a tree that holds it is harmless.
            busy: makes the error to raise when somebody else holds the lock, from words for who that is.
            shared: several may hold it at once, as long as nobody holds it alone.
            wait: wait for the lock instead of raising.
        """

    @abstractmethod
    def is_locked(self, key: str) -> bool:
        """Whether anybody holds the lock `key` alone; writes nothing."""

    def check_locks(self) -> None:  # noqa: B027 (elsewhere a lock cannot be lost)
        """ConflictError if this process has lost a lock that it took: asked before what only its holder may do."""

    def remove_if_empty(self, *prefixes: str) -> None:  # noqa: B027 (elsewhere no directory is there without files)
        """Deletes directories of the memory that are empty, in this order; "" is the memory's own."""

    def refuse_links(self) -> None:  # noqa: B027 (elsewhere there are no links)
        """Raises DamageError if a directory of the memory is a link: jobs that write or delete ask this first."""

    def is_writable(self) -> bool:
        """Whether this process may write here at all, as far as can be told without writing."""
        return True


Place: TypeAlias = str | os.PathLike[str] | Store
"""Where a memory is: what `open_store` takes."""


def rendered(content: Content) -> bytes:
    """The bytes that `content` stands for."""
    if isinstance(content, bytes):
        return content
    file = io.BytesIO()
    content(file)
    return file.getvalue()


def check_size(name: str, found: int, *, size: int | None, most: int | None) -> None:
    """DamageError unless a file of `found` bytes may be one that has `size` bytes, or at most `most`."""
    if size is not None and found != size:
        raise DamageError(
            f"has {found} bytes, expected {size}", where=name, remedy="put back the file that was written"
        )
    if size is None and most is not None and found > most:
        raise DamageError(f"has {found} bytes, more than such a file ever has ({most})", where=name)


@functools.lru_cache(maxsize=32)
def shared_context(parent: Any, settings: str) -> Any:
    """A TensorStore context with `settings`, in JSON, whose other resources are those of `parent`."""
    import tensorstore as ts

    return ts.Context(json.loads(settings), parent)
