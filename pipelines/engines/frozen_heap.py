"""Garbage collections are rare in our processes, and while a step runs they leave out what was there before it.

Beam, JAX and Flax leave about a million objects behind that live as long as the process. Python's collector goes
through all of them again and again while they are imported, a fifth of the time that takes, and while a step makes many
small ones: a third of the time of planning.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator
from typing import Final

_ALLOCATIONS: Final = 20_000
"""Containers made between two collections of the youngest generation; Python's default is 700."""

_lock = threading.Lock()
_steps = 0


def collect_seldom() -> None:
    """Makes garbage collections rare in this process: for a process that is Glimmer's own, before it imports much."""
    gc.set_threshold(_ALLOCATIONS)


@contextlib.contextmanager
def frozen_heap() -> Iterator[None]:
    """Exempts what exists now from garbage collections until the block ends, in every thread; may be nested."""
    global _steps
    with _lock:
        _steps += 1
        if _steps == 1:
            gc.freeze()
    try:
        yield
    finally:
        with _lock:
            _steps -= 1
            if not _steps:
                gc.unfreeze()
