"""The engine of several processes on this machine: workers that take one element after another until none is left.

Workers are started anew, not forked, and do not run the main module of the program that starts them. Each has one
connection to this process: elements go to whoever is free, so a slow one holds up nobody. A worker whose connection
ends has died; what it had is done once more, by a new worker. Workers whose own end of the connection ends, because
this process is gone, leave at once, so nothing is left running however this process ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Final

import apache_beam as beam

from ...progress import busy
from .element_loop import pickled_step
from .engine import Engine
from .worker_error import WorkerError
from .worker_process import WorkerStart

_WORKER: Final = f"{__package__}.worker_process"
_SECONDS_TO_LEAVE: Final = 30.0
_SECONDS_TO_TERMINATE: Final = 2.0
_log = logging.getLogger(__name__)


def run(
    label: str, elements: Sequence[Any], step: beam.DoFn, engine: Engine, done: Callable[[], float] | None = None
) -> None:
    """Runs a step in `engine.workers` processes; see `run_step`.

    Raises UsageError for a step that cannot be sent to another process, WorkerError for an element at which two
    workers ended.
    """
    _Crew(label, elements, pickled_step(label, step), min(engine.workers, len(elements))).run()


class _Worker:
    """One process, and this end of its connection."""

    def __init__(self, number: int, of: int, step: bytes) -> None:
        self.number = number
        self.element: int | None = None
        self.is_leaving = False
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", _WORKER, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        self.connection = Connection(ours.detach())
        start = WorkerStart(number=number, workers=of, step=step, log_level=logging.getLogger("glimmer").level)
        self._send(start)

    @property
    def name(self) -> str:
        return f"worker {self.number + 1} (process {self.process.pid})"

    def give(self, index: int, element: Any) -> None:
        """Hands it an element."""
        self.element = index
        self._send((index, element))

    def dismiss(self) -> None:
        """Tells it that there are no more elements."""
        self.element, self.is_leaving = None, True
        self._send(None)

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # it has died, which is seen when its connection is read
            self.connection.send(message)

    def how_it_ended(self) -> str:
        """In words, once its connection has ended."""
        try:
            status = self.process.wait(_SECONDS_TO_LEAVE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if status >= 0:
            return f"ended with status {status}"
        name = signal.Signals(-status).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")

    def stop(self) -> None:
        """Ends the process: once it has torn down its step, if it was dismissed, else whatever it does."""
        if not self.is_leaving:
            self.process.terminate()
        try:
            self.process.wait(_SECONDS_TO_LEAVE if self.is_leaving else _SECONDS_TO_TERMINATE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.connection.close()


class _Crew:
    """The workers of one step, and what is left to do."""

    def __init__(self, label: str, elements: Sequence[Any], step: bytes, count: int) -> None:
        self._label, self._elements, self._step, self._count = label, elements, step, count
        self._left = deque(range(len(elements)))
        self._undone = len(elements)
        self._died_at: dict[int | None, str] = {}
        self._workers: list[_Worker] = []

    def run(self) -> None:
        """Has every element done; ends the workers in any case."""
        try:
            for number in range(self._count):
                self._start(number)
            with busy(f"starting {self._count} worker processes"):
                self._serve()
            while self._undone:
                self._serve()
        except BaseException:
            for worker in self._workers:
                worker.is_leaving = False  # nobody waits for it
            raise
        finally:
            for worker in self._workers:
                worker.stop()

    def _start(self, number: int) -> None:
        self._workers.append(_Worker(number, self._count, self._step))

    def _serve(self) -> None:
        """Waits until some workers have something to say, and answers them."""
        ready = wait([worker.connection for worker in self._workers])
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            try:
                ended, error = pickle.loads(worker.connection.recv_bytes())
            except (EOFError, OSError):
                self._replace(worker)
                continue
            if error is not None:
                raise error
            self._undone -= ended is not None
            if self._left:
                index = self._left.popleft()
                worker.give(index, self._elements[index])
            else:
                worker.dismiss()

    def _replace(self, worker: _Worker) -> None:
        """Starts another worker in the place of one that died at an element, unless one died there before."""
        self._workers.remove(worker)
        how, index = f"{worker.name} {worker.how_it_ended()}", worker.element
        worker.connection.close()
        if worker.is_leaving:
            return
        if index in self._died_at:
            doing = "before it began" if index is None else f"at element {self._elements[index]!r} of {self._label}"
            raise WorkerError(
                f"{how} {doing}, as {self._died_at[index]} before",
                remedy="give the job fewer --workers, or more memory, and run the same command again to resume",
            )
        self._died_at[index] = how
        _log.warning("%s; its work is done again", how)
        if index is not None:
            self._left.appendleft(index)
        self._start(worker.number)
