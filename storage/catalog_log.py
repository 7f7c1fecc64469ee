"""The log of the catalog's Delta table: JSON entries, one a version, as Glimmer reads them and as Delta Lake does.

Delta prefers a checkpoint to entries, and checkpoints have no checksum; it waits for ever on a FIFO, and reads whatever
size an entry has. A memory's log has JSON entries in plain files of a bounded size, and nothing else that Delta knows,
which is looked at before Delta reads them by itself. Where Delta cannot open the memory's place it works on a copy of
the entries in a temporary directory, and the entry that it writes there is put into the memory if no other is there:
the same rule by which Delta orders commits elsewhere.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from .. import DamageError, StorageError, UsageError
from . import temporary
from .files import damage, translated
from .manifest import MAX_ENTRY_BYTES
from .stores import Store
from .vacuumed import PASSAGES

LOG: Final = "_delta_log"
_KEY: Final = f"{PASSAGES}/{LOG}"
_ENTRY: Final = re.compile(r"[0-9]{20}\.json")
_MOST_MISSING: Final = 1000


class CatalogLog:
    """The log of the memory in `store`; holds no state. `name` is its place for messages."""

    def __init__(self, store: Store) -> None:
        self.store, self.name = store, store.name(_KEY)
        self._remedy = f"run `glimmer verify {store.location}`"
        self._place = store.delta(PASSAGES)

    def key(self, version: int) -> str:
        """The entry of `version`, whether it exists or not."""
        return f"{_KEY}/{version:020d}.json"

    def has(self, version: int) -> bool:
        """Whether `version` has been committed."""
        return self.store.exists(self.key(version))

    def latest(self) -> int:
        """Number of the newest version, by the names in the log; raises UsageError when there is no memory.

        DamageError where the newest is so far beyond the others that nobody could look for those between.
        """
        versions = sorted(int(name[:-5]) for name in self.store.names(_KEY) if _ENTRY.fullmatch(name))
        where = self.store.location
        if not versions:
            raise UsageError("no memory here", where=where, remedy=f"`glimmer encode … --memory {where}` makes one")
        if versions[-1] > len(versions) + _MOST_MISSING:
            entry = self.store.name(self.key(versions[-1]))
            raise DamageError(
                f"the log has {len(versions)} entries, so this is none of its", where=entry, remedy="delete it"
            )
        return versions[-1]

    def read(self, version: int) -> bytes:
        """The entry of `version`; raises DamageError if it is missing or cannot be one."""
        key = self.key(version)
        path = self.store.name(key)
        with translated(path, damage(path, self._remedy)):
            try:
                return self.store.read(key, most=MAX_ENTRY_BYTES)
            except FileNotFoundError:
                raise DamageError(
                    f"the log entry of version {version} is missing", where=path, remedy=self._remedy
                ) from None

    def check_files(self) -> None:
        """Raises DamageError for a file of the log that Delta must not read."""
        for entry in self.store.entries(_KEY):
            place = self.store.name(entry.key)
            if entry.name == "_last_checkpoint" or ".checkpoint." in entry.name or ".compacted." in entry.name:
                raise DamageError(
                    "a memory's log has no checkpoints", where=place, remedy=f"delete it, then {self._remedy}"
                )
            if not entry.name.endswith(".json") or entry.name.startswith(("_", ".")):
                continue  # what a writer left half-way; nobody reads it
            if entry.kind != "file":
                raise DamageError("not a plain file", where=place, remedy=self._remedy)
            found = self.store.stat(entry.key) if entry.link else entry
            if found is not None and found.size > MAX_ENTRY_BYTES:
                raise DamageError("larger than any log entry", where=place, remedy=self._remedy)

    @contextlib.contextmanager
    def table(self, version: int) -> Iterator[DeltaTable]:
        """The Delta table at `version`, for the time of the block. Raises DamageError, StorageError."""
        with contextlib.ExitStack() as stack:
            with translated(self.name, damage(self.name, self._remedy)):
                self.check_files()
                try:
                    uri, options = self._place or stack.enter_context(self._copied(version))
                    table = self.store.repeated(
                        lambda: DeltaTable(uri, version=version, storage_options=options or None)
                    )
                except TableNotFoundError:
                    name = self.store.name(PASSAGES)
                    raise DamageError("the Delta log is damaged", where=name, remedy=self._remedy) from None
            yield table

    def create(self, write: Callable[[str, dict[str, str]], None]) -> None:
        """Makes version 0 by `write`, a call of Delta Lake with a URI and storage options, unless another is first."""
        with contextlib.ExitStack() as stack:
            uri, options = self._place or stack.enter_context(self._copied(-1))

            def attempt() -> None:
                try:
                    write(uri, options)
                except Exception:
                    if not self.has(0):  # else another process was first, which is as good
                        raise

            self.store.repeated(attempt)
            self._publish(uri, 0)

    def commit(self, version: int, write: Callable[[DeltaTable], None]) -> None:
        """Makes `version` by `write`, a commit of Delta Lake to the table before it, unless another is first."""
        name = self.store.name(PASSAGES)
        refused = translated(name, lambda text: StorageError(f"commit failed: {text}", where=name))
        with self.table(version - 1) as table, refused:

            def attempt() -> None:
                try:
                    write(table)
                except Exception:
                    if not self.has(version):  # else the caller sees whose it is
                        raise

            self.store.repeated(attempt)
            self._publish(table.table_uri, version)

    def _publish(self, uri: str, version: int) -> None:
        """Puts an entry that Delta wrote into a copy of the log where it belongs, if no other process was first."""
        if self._place is None:
            entry = Path(uri.removeprefix("file://")) / LOG / f"{version:020d}.json"
            self.store.put_if_absent(self.key(version), entry.read_bytes())

    def sync(self, version: int) -> None:
        """Delta writes its log without fsync; a version that was reported must survive a power cut."""
        self.store.sync(self.key(version))

    @contextlib.contextmanager
    def _copied(self, version: int) -> Iterator[tuple[str, dict[str, str]]]:
        """A temporary table with the entries up to `version`."""
        with temporary.temporary_directory("glimmer-log-") as directory:
            log = directory / LOG
            log.mkdir()
            for number in range(version + 1):
                (log / f"{number:020d}.json").write_bytes(self.read(number))
            yield directory.as_uri(), {}
