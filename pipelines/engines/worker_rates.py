"""What each worker of a step has done and how fast, told through the store that all of them see.

It works whatever the engine: a worker process keeps a small file of its own up to date, the driver reads them all.
They are for display, so one that cannot be written or read is no error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam

from ... import GlimmerError
from ...progress import repeatedly
from ...storage.files import TEMPORARY_PREFIX
from ...storage.locks import this_process
from ...storage.stores import open_store
from ..per_process import PerProcess

_LOG_EVERY_S: Final = 30.0
_LARGEST: Final = 1 << 12
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WorkerRate:
    """What one worker process has done of a step.

    Attributes:
        worker: `process ID on HOST`.
        amount: of what `unit` names, such as passages.
        unit: the plural of what is counted.
        seconds: from its first element's begin to its last element's end, in seconds.
    """

    worker: str
    amount: int
    unit: str
    seconds: float

    @property
    def per_second(self) -> float:
        """Amount by seconds; 0 where nothing was done."""
        return self.amount / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class WorkerFiles:
    """Where the workers of a step keep their files: under `key` of the store at `place`.

    `amount` says how much an element is, in what `unit` names; it is sent to workers, so it must be picklable.
    """

    place: str
    key: str
    unit: str
    amount: Callable[[Any], int]

    def read(self) -> list[WorkerRate]:
        """What every worker has done so far, by name."""
        store, found = open_store(self.place), []
        for name in store.names(self.key):
            if name.startswith(TEMPORARY_PREFIX):
                continue  # being written
            with contextlib.suppress(GlimmerError, OSError, ValueError, TypeError, KeyError):
                content = json.loads(store.read(f"{self.key}/{name}", most=_LARGEST))
                found.append(
                    WorkerRate(
                        worker=str(content["worker"]),
                        amount=int(content["amount"]),
                        unit=self.unit,
                        seconds=float(content["seconds"]),
                    )
                )
        return sorted(found, key=lambda rate: rate.worker)


class _Meter:
    """Counts what this process has done and keeps its file up to date."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: float | None = None
        self._amount = 0

    def begin(self) -> None:
        with self._lock:
            self._begun = self._begun or time.monotonic()

    def add(self, amount: int, files: WorkerFiles) -> None:
        worker = this_process()
        name = "".join(letter if letter.isalnum() else "-" for letter in worker.lower())
        with self._lock:
            self._amount += amount
            if self._begun is None:
                return
            seconds = round(time.monotonic() - self._begun, 3)
            content = {"worker": worker, "amount": self._amount, "seconds": seconds}
            with contextlib.suppress(GlimmerError, OSError):
                open_store(files.place).put(f"{files.key}/{name}.json", json.dumps(content).encode())


class Metered(beam.DoFn):
    """The step `step`, with its worker's file kept up to date."""

    def __init__(self, step: beam.DoFn, files: WorkerFiles) -> None:
        self._step, self._files, self._meters = step, files, PerProcess(_Meter)

    def check(self) -> None:
        """Raises what keeps this process from running the step."""
        check = getattr(self._step, "check", None)
        if check is not None:
            check()

    def setup(self) -> None:
        self._meter = self._meters.acquire()
        self._step.setup()

    def start_bundle(self) -> None:
        self._pending = 0
        self._step.start_bundle()

    def process(self, element: Any) -> Iterator[None]:
        self._meter.begin()
        for _ in self._step.process(element) or ():
            pass
        self._pending += self._files.amount(element)
        return iter(())

    def finish_bundle(self) -> None:
        self._step.finish_bundle()
        self._meter.add(self._pending, self._files)

    def teardown(self) -> None:
        # Some runners tear a step down once the job has ended, when nobody reads the file any more.
        self._meters.release()
        self._step.teardown()


def logged(files: WorkerFiles) -> AbstractContextManager[None]:
    """Logs a line for each worker every half minute, while the block runs."""
    return repeatedly(lambda: log_rates(files.read()), _LOG_EVERY_S, "worker rates")


def log_rates(rates: list[WorkerRate]) -> None:
    """A line for each worker."""
    for rate in rates:
        _log.info("%s: %s %s, %.1f/s", rate.worker, f"{rate.amount:,}", rate.unit, rate.per_second)
