"""Progress: what a running job tells the person who launched it.

A job calls a `Progress`; who listens decides how it looks. `Quiet` says nothing, for tests and library callers; the
command line draws bars (`pipelines.cli.terminal`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Protocol

POLL_INTERVAL_S = 0.25


class Progress(Protocol):
    """A listener. `stage` opens a stage; `at` moves it to an absolute amount; `done` closes it."""

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None: ...

    def at(self, amount: float, *, total: float | None = None) -> None: ...

    def done(self) -> None: ...

    def say(self, line: str) -> None: ...


class Quiet:
    """Listens and says nothing."""

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        return None

    def at(self, amount: float, *, total: float | None = None) -> None:
        return None

    def done(self) -> None:
        return None

    def say(self, line: str) -> None:
        return None


@contextmanager
def polled(progress: Progress, read: Callable[[], float]) -> Iterator[None]:
    """Moves the current stage from another thread while the body blocks, as Beam's `run` does.

    `read` gives the absolute amount done and must be cheap and thread-safe; the job's ledger is.
    """
    stop = Event()

    def poll() -> None:
        while not stop.wait(POLL_INTERVAL_S):
            progress.at(read())

    thread = Thread(target=poll, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
