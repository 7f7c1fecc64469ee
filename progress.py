"""Progress: what a running job tells the person who launched it.

A job calls a `Progress`, a callback with a method for each event; who receives it decides how it looks. `Quiet` shows
nothing, for tests and library callers; the command line draws bars or prints lines (`pipelines.cli.terminal`).

A job's amounts say how far it is. What holds it up meanwhile, such as loading a model or compiling, happens deep inside
encoders and readers that get no `Progress`: they mark it with `busy`, and displays show `activity()` beside the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Event, Lock, Thread
from typing import Protocol

POLL_INTERVAL_S = 0.25

_lock = Lock()
_activities: dict[object, str] = {}


class Progress(Protocol):
    """Progress callback. `stage` opens a stage; `at` moves it to an absolute amount; `done` closes it; `say` is a note.

    `unit` is the plural of what is counted (`passages`), `bytes`, or empty where nothing is. `total` is None where it
    is not known, or not yet.
    """

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None: ...

    def at(self, amount: float, *, total: float | None = None) -> None: ...

    def done(self) -> None: ...

    def say(self, line: str) -> None: ...


class Quiet:
    """A progress callback that shows nothing."""

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        return None

    def at(self, amount: float, *, total: float | None = None) -> None:
        return None

    def done(self) -> None:
        return None

    def say(self, line: str) -> None:
        return None


@contextmanager
def busy(words: str) -> Iterator[None]:
    """Says what this process does while no amount grows, such as `compiling (3 of 13)`. Nests, from any thread."""
    entry = object()
    with _lock:
        _activities[entry] = words
    try:
        yield
    finally:
        with _lock:
            del _activities[entry]


def activity() -> str:
    """What this process is busy with, by the innermost or newest `busy`; empty if it just makes progress."""
    with _lock:
        return next(reversed(_activities.values()), "")


def polled(
    progress: Progress, read: Callable[[], float], seconds: float = POLL_INTERVAL_S
) -> AbstractContextManager[None]:
    """Moves the current stage from another thread, every so many seconds, while the body blocks, as Beam's `run` does.

    `read` gives the absolute amount done and must be cheap and thread-safe; the job's ledger is.
    """
    return repeatedly(lambda: progress.at(read()), seconds, "progress")


@contextmanager
def repeatedly(act: Callable[[], None], seconds: float, name: str) -> Iterator[None]:
    """Calls `act` every so many seconds from a thread called `name`, while the body blocks."""
    stop = Event()

    def loop() -> None:
        while not stop.wait(seconds):
            act()

    thread = Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
