"""What the steps of a Beam graph share inside one worker process: weights loaded once, a count of what is done.

Beam makes several copies of a step in one process, one a thread and more. `apache_beam.utils.shared.Shared` finds the
object that belongs to a handle, wherever a copy of the handle was unpickled, but keeps the last object alive until
another one is asked for. So what is shared is a small slot, and the slot's value is counted: made when the first step
acquires it, dropped when the last one releases it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from apache_beam.utils.shared import Shared

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A handle, picklable if `make` is, to one value in each process.

    `acquire` in a step's `setup`, `release` in its `teardown`, each once; or use it as a context manager. Threads that
    acquire at the same time wait for the one that makes the value. An error of `make` is raised to each of them.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._shared = Shared()
        self._slot: _Slot | None = None

    def acquire(self) -> T:
        """The process's value, made if nobody in the process has it yet."""
        slot: _Slot = self._shared.acquire(_Slot)
        with slot.lock:
            if not slot.users:
                slot.value = self._make()
            slot.users += 1
            value: T = slot.value
        self._slot = slot  # keeps it alive
        return value

    def release(self) -> None:
        """Lets go of the value; whoever is last drops it."""
        slot, self._slot = self._slot, None
        if slot is not None:
            with slot.lock:
                slot.users -= 1
                if not slot.users:
                    slot.value = None

    def __enter__(self) -> T:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_slot": None}


class _Slot:
    """A value, how many use it, and the lock that guards both."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.value: Any = None


class Count:
    """A number that threads add to; for display, so it may lag."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self, amount: int) -> None:
        with self._lock:
            self.value += amount
