"""Locks in an object store: small objects that their holder renews, and that anybody may take when they are old.

A bucket has no kernel that lets go of a lock when a process ends. So a lock is a lease: an object that is created
where none is, renewed by a thread while it is held, and void once it has not been renewed for LEASE_S by the store's
own clock. A holder that was killed on this machine is known to be gone at once. A process that was stopped for so long
that its lease ran out finds that it holds nothing (`Leases.check`), and then neither deletes nor commits.

A lock that several may share is an object for each who does, beside the one for whoever holds it alone. Each side puts
its own object first and looks for the other's then, so of two that start at once at least one sees the other.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ... import ConflictError, GlimmerError, StorageError
from ..locks import this_process

if TYPE_CHECKING:
    from .object_store import ObjectStore

LEASE_S: Final = 120.0
_RENEW_S: Final = 20.0
_POLL_S: Final = 0.3
_SHARED: Final = ".shared"
_log = logging.getLogger(__name__)


def _now() -> float:
    """Seconds that go on while the machine sleeps, where there is such a clock."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


@dataclass
class _Lease:
    """A lease that this process holds: its object, and when that was last written."""

    key: str
    content: bytes
    version: str | None
    renewed: float = field(default_factory=_now)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def lost(self) -> bool:
        return _now() - self.renewed > LEASE_S


class Leases:
    """The leases that one store holds in its bucket. Safe to use from many threads."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._held: set[str] = set()
        self._leases: dict[str, _Lease] = {}
        self._ahead: float | None = None

    @contextlib.contextmanager
    def held(
        self, key: str, *, busy: Callable[[str], GlimmerError], shared: bool = False, wait: bool = False
    ) -> Iterator[None]:
        """Holds the lock `key` until the block ends; arguments and errors are those of `Store.lock`."""
        while True:
            lease = self._taken(f"{key}{_SHARED}/{secrets.token_hex(8)}" if shared else key)
            other = self._holder(key) if shared else self._sharer(key)
            if isinstance(lease, _Lease):
                if other is None:
                    break
                self._released(lease)
            else:
                other = lease
            if not wait:
                raise busy(other or "another process")
            time.sleep(_POLL_S)
        self._leases[lease.key] = lease
        renewing = threading.Thread(target=self._renew, args=(lease,), name="lease", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            lease.ended.set()
            renewing.join()
            del self._leases[lease.key]
            with contextlib.suppress(StorageError, FileNotFoundError):  # it runs out by itself
                self._released(lease)

    def is_held(self, key: str) -> bool:
        """Whether anybody holds the lock `key` alone."""
        return self._holder(key) is not None

    def check(self) -> None:
        """ConflictError if a lease of this store ran out: somebody else may be doing what it stood for."""
        for lease in list(self._leases.values()):
            if lease.lost:
                raise ConflictError(
                    f"this process did not renew its lock for {LEASE_S:.0f} seconds, another one may hold it now",
                    where=self._store.name(lease.key),
                    remedy="run the same command again",
                )

    def _taken(self, key: str) -> _Lease | str:
        """A lease on `key`, or who has it."""
        content = json.dumps({"token": secrets.token_hex(8), "holder": this_process(), "process": _process()}).encode()
        while True:
            began = _now()
            version = self._store.created(key, content)
            if version is not None:
                return _Lease(key, content, version, began)
            found = self._found(key)
            if found is None:
                continue  # let go in between
            holder, old = found
            if holder is not None:
                return holder
            version = self._store.replaced(key, content, old)
            if version is not None:
                _log.info("%s: a lease that had run out was taken", self._store.name(key))
                return _Lease(key, content, version, began)

    def _found(self, key: str) -> tuple[str | None, str] | None:
        """(holder, or None if the lease is void; version) of the object at `key`; None where there is none."""
        try:
            content, modified, version = self._store.versioned(key)
        except FileNotFoundError:
            return None
        try:
            record = json.loads(content)
            holder, process = str(record["holder"]), str(record["process"])
        except (ValueError, KeyError, TypeError, RecursionError):
            holder, process = "another process", ""
        void = _is_gone(process) or self._clock() - modified > LEASE_S
        return None if void else holder, version

    def _holder(self, key: str) -> str | None:
        found = self._found(key)
        return None if found is None else found[0]

    def _sharer(self, key: str) -> str | None:
        for name in self._store.names(f"{key}{_SHARED}"):
            shared = f"{key}{_SHARED}/{name}"
            if (holder := self._holder(shared)) is not None:
                return holder
            self._store.delete(shared)
        return None

    def _clock(self) -> float:
        """The store's time: its distance from this machine's is measured once."""
        if self._ahead is None:
            self._ahead = self._store.clock() - time.time()
        return time.time() + self._ahead

    def _released(self, lease: _Lease) -> None:
        """Deletes a lease's object if it is still this one's: a finished job's files are gone, lock and all."""
        if self._store.read(lease.key) == lease.content:
            self._store.delete(lease.key)

    def _renew(self, lease: _Lease) -> None:
        while not lease.ended.wait(_RENEW_S):
            began = _now()
            try:
                version = self._store.replaced(lease.key, lease.content, lease.version or "")
            except (GlimmerError, OSError) as error:
                _log.warning("%s: the lock cannot be renewed yet: %s", self._store.name(lease.key), error)
                continue
            if version is None:  # deleted with its job, or else taken
                if self._store.is_file(lease.key):
                    lease.renewed = float("-inf")
                return
            lease.version, lease.renewed = version, began


def _process() -> str:
    """This process, so that another on the same machine can tell whether it is still there; "" where none can."""
    return _identity(os.getpid())


def _identity(pid: int) -> str:
    try:
        machine = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
    return f"{machine} {pid} {started}"


def _is_gone(process: str) -> bool:
    """Whether `process` ran on this machine and has ended."""
    parts, here = process.split(" "), _process().split(" ")
    if len(parts) != 4 or len(here) != 4 or parts[:2] != here[:2] or not parts[2].isdecimal():
        return False
    return _identity(int(parts[2])) != process
