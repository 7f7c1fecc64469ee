"""Steps for tests of engines: worker processes import them by name, since this directory is on their path too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam

from glimmer import UsageError


class Note(beam.DoFn):
    """Notes in `directory` that an element was done and by which process, and what happens to the step.

    Args:
        directory: where the notes go: `element-N`, `setup-PID`, `teardown-PID`.
        bad: an element that is refused.
        deadly: an element that kills its process, the first `deaths` times.
        seconds: what an element takes.
        slow: an element that takes three seconds.
        together: how many processes have to be set up before any begins.
    """

    def __init__(
        self,
        directory: Path,
        *,
        bad: int | None = None,
        deadly: int | None = None,
        deaths: int = 1,
        seconds: float = 0.0,
        slow: int | None = None,
        together: int = 1,
    ) -> None:
        self._directory, self._bad, self._deadly = directory, bad, deadly
        self._deaths, self._seconds, self._slow = deaths, seconds, slow
        self._together = together

    def setup(self) -> None:
        self._note(f"setup-{os.getpid()}")
        while len(noted(self._directory, "setup")) < self._together:
            time.sleep(0.02)

    def process(self, element: int) -> Iterator[None]:
        if element == self._bad:
            raise UsageError("cannot be done", where=f"element {element}", remedy="leave it out")
        deaths = len(list(self._directory.glob("death-*")))
        if element == self._deadly and deaths < self._deaths:
            self._note(f"death-{deaths}")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3.0 if element == self._slow else self._seconds)
        self._note(f"element-{element}")
        return iter(())

    def teardown(self) -> None:
        self._note(f"teardown-{os.getpid()}")

    def _note(self, name: str) -> None:
        (self._directory / name).write_text(str(os.getpid()))


class Blind(Note):
    """A step whose memory no worker sees."""

    def check(self) -> None:
        raise UsageError("no such memory", where="/memories/wiki")


def noted(directory: Path, kind: str) -> list[str]:
    """What `Note` noted of a kind, such as the numbers of elements, sorted."""
    return sorted(path.name.partition("-")[2] for path in directory.glob(f"{kind}-*"))
