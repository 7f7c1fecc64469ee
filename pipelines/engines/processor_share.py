"""Several workers on one machine: each makes as many threads as its share of the processors asks for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def share_of_processors(workers: int) -> Iterator[None]:
    """Libraries that make threads in the block make as many as one of `workers` processes should have.

    XLA and others ask how many processors the process may use, so in the block it may use its share. Afterwards every
    thread may run anywhere again, as the scheduler of the system sees fit. Without effect where there is one worker.
    """
    if workers < 2 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    everywhere = os.sched_getaffinity(0)
    _allow(sorted(everywhere)[: max(1, len(everywhere) // workers)])  # how many, not which
    try:
        yield
    finally:
        _allow(everywhere)


def _allow(processors: Iterable[int]) -> None:
    """Lets every thread of this process run on `processors`."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread), processors)
