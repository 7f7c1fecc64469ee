"""A memory in the memory of this process: `memory://name`, for tests, notebooks and examples.

All stores of one name show the same files, from any thread, until the process ends or `forget` is called. Other
processes do not see them, so jobs run here with engines that have one process. The bytes are in a key-value store of
TensorStore, for which Zarr arrays are then as near as any other file.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from ... import GlimmerError, UsageError
from ..locks import NamedLocks
from .protocol import Content, Entry, Store, check_size, rendered, shared_context


class _Files:
    """The files of one name."""

    def __init__(self) -> None:
        import tensorstore as ts

        self.context = ts.Context({})
        self.bytes: Any = ts.KvStore.open({"driver": "memory"}, context=self.context).result()
        self.entries: dict[str, tuple[bytes, Entry]] = {}
        """Key -> the generation that was last seen, and what is known of it."""
        self.guard = threading.RLock()
        self.locks = NamedLocks()


_all: dict[str, _Files] = {}
_guard = threading.Lock()


class InMemoryStore(Store):
    """The files of `memory://name`. A file's time is when this store wrote it, or first saw what others wrote."""

    of_this_process = True

    def __init__(self, location: str) -> None:
        scheme, _, name = location.partition("://")
        if scheme.lower() != "memory" or not name.strip("/"):
            raise UsageError("a memory of this process is named like memory://name", where=location)
        super().__init__(f"memory://{name.strip('/')}")
        with _guard:
            self._files = _all.setdefault(str(self.location), _Files())

    def forget(self) -> None:
        """Drops all files of this name; stores and memories that are open keep what they have."""
        with _guard:
            _all.pop(str(self.location), None)

    # Reading.

    def read(self, key: str, *, size: int | None = None, most: int | None = None) -> bytes:
        found = self._files.bytes.read(key).result()
        if found.state == "missing":
            raise FileNotFoundError(2, "No such file", self.name(key))
        check_size(self.name(key), len(found.value), size=size, most=most)
        content: bytes = found.value
        return content

    def read_range(self, key: str, start: int, length: int) -> bytes:
        entry = self._stat(key)
        if entry is None:
            raise FileNotFoundError(2, "No such file", self.name(key))
        end = min(start + length, entry.size)
        content: bytes = (
            self._files.bytes.read(key, byte_range=slice(start, end)).result().value if start < end else b""
        )
        return content

    def stat(self, key: str) -> Entry | None:
        found = self._stat(key)
        if found is None and self._keys(key):
            return self._directory(key)
        return found

    def _stat(self, key: str) -> Entry | None:
        with self._files.guard:
            generation, entry = self._files.entries.get(key, (None, None))
            found = self._files.bytes.read(key, if_not_equal=generation).result()
            if found.state == "missing":
                self._files.entries.pop(key, None)
                return None
            if entry is None or found.state == "value":
                entry = self._note(key, found.stamp.generation, len(found.value))
            return entry

    def _note(self, key: str, generation: bytes, size: int) -> Entry:
        entry = Entry(key, "file", size, time.time())
        self._files.entries[key] = generation, entry
        return entry

    def _directory(self, key: str) -> Entry:
        times = [entry.modified for below in self._keys(key) if (entry := self._stat(below)) is not None]
        return Entry(key, "directory", 0, max(times, default=float("-inf")))

    def _keys(self, prefix: str) -> list[str]:
        import tensorstore as ts

        below = ts.KvStore.KeyRange(f"{prefix}/", f"{prefix}0") if prefix else ts.KvStore.KeyRange()
        return [key.decode() for key in self._files.bytes.list(below).result()]

    def entries(self, prefix: str = "") -> list[Entry]:
        start = len(prefix) + 1 if prefix else 0
        keys = self._keys(prefix)
        names = {key[start:].partition("/")[0] for key in keys}
        found = (self.stat(f"{prefix}/{name}" if prefix else name) for name in sorted(names))
        return [entry for entry in found if entry is not None]

    # Writing.

    def put(self, key: str, content: Content) -> None:
        data = rendered(content)
        with self._files.guard:
            self._note(key, self._files.bytes.write(key, data).result().generation, len(data))

    def put_if_absent(self, key: str, content: bytes) -> bool:
        with self._files.guard:
            present = self._files.bytes.read(key).result()
            if present.state != "missing":
                return False
            made = self._files.bytes.write(key, content, if_equal=present.stamp.generation).result().generation
            if made:  # else an array's chunk was written there in between
                self._note(key, made, len(content))
            return bool(made)

    def delete(self, key: str) -> None:
        with self._files.guard:
            self._files.bytes.write(key, None).result()
            self._files.entries.pop(key, None)

    def delete_tree(self, prefix: str) -> None:
        with self._files.guard:
            for key in self._keys(prefix):
                self.delete(key)

    # What other libraries need.

    def kvstore(self, prefix: str) -> dict[str, Any]:
        return {"driver": "memory", "path": f"{prefix}/"}

    def context(self, settings: Mapping[str, Any]) -> Any:
        return shared_context(self._files.context, json.dumps(settings, sort_keys=True))

    # Jobs.

    def lock(
        self, key: str, *, busy: Callable[[str], GlimmerError], shared: bool = False, wait: bool = False
    ) -> AbstractContextManager[None]:
        return self._files.locks.held(key, busy=busy, shared=shared, wait=wait)

    def is_locked(self, key: str) -> bool:
        return self._files.locks.is_held(key)
