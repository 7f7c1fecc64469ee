"""Progress in a log: a line with the time of day every few seconds at first, every half minute later on."""

from __future__ import annotations

import time
from threading import Event, Lock, Thread
from typing import Final, Self

from ...progress import activity
from .printing import echo
from .progress_text import Meter

FIRST_LINE_S: Final = 3.0
"""Seconds until a stage's first line; a stage that is done before has one line in all."""

_GROWTH, _LONGEST_INTERVAL_S, _TICK_S = 1.6, 30.0, 0.5


class ProgressLines:
    """Progress callback that prints lines on standard error.

    A thread prints them when they are due, also while the job loads or compiles and reports nothing.
    """

    def __init__(self) -> None:
        self._meter: Meter | None = None
        self._lock = Lock()
        self._stop = Event()
        self._due, self._interval = 0.0, 0.0
        self._thread: Thread | None = None
        self._restart_interval()

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._tick, name="progress-lines", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        with self._lock:
            self._meter = Meter(name, total=total, unit=unit, start=start)
            self._restart_interval()

    def at(self, amount: float, *, total: float | None = None) -> None:
        with self._lock:
            if self._meter is not None:
                self._meter.at(amount, total)

    def done(self) -> None:
        with self._lock:
            meter, self._meter = self._meter, None
            if meter is not None:
                meter.at(meter.amount if meter.total is None else meter.total)
                self._print(f"{meter.name}: {meter.summary()}")
            self._restart_interval()

    def say(self, line: str) -> None:
        echo(line, err=True)

    def _tick(self) -> None:
        while not self._stop.wait(_TICK_S):
            with self._lock:
                if time.monotonic() >= self._due:
                    self._print_state()

    def _print_state(self) -> None:
        doing = activity()
        if self._meter is None and not doing:
            return
        words = "" if self._meter is None else f"{self._meter.name}: {self._meter.state()}".rstrip(": ")
        self._print(", ".join(part for part in (words, doing) if part))
        self._interval = min(_LONGEST_INTERVAL_S, self._interval * _GROWTH)
        self._due = time.monotonic() + self._interval

    def _restart_interval(self) -> None:
        self._interval = FIRST_LINE_S
        self._due = time.monotonic() + self._interval

    def _print(self, text: str) -> None:
        echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)
