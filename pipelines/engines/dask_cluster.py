"""The engine on a Dask cluster: every element is a task, which the scheduler gives to whichever worker is free.

Beam has a runner for Dask too, which sets a step up and tears it down for every partition of the elements, so that
weights are loaded again each time, and which gives no worker's death a name. Here a step stays set up in a worker
process until the job has ended, or until nothing has asked for it for a while, as after the death of the job.

The scheduler hands what a dead worker had to another one, and gives up an element at which several have died
(`distributed.scheduler.allowed-failures`).
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import queue
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import apache_beam as beam

from ... import GlimmerError, UsageError
from ...progress import busy
from ...storage.locks import this_process
from .element_loop import ElementLoop, pickled_step
from .engine import Engine
from .processor_share import share_of_processors
from .worker_error import WorkerError

_CONNECT_S: Final = 20.0
_WITHOUT_WORKERS_S: Final = 60.0
_IDLE_S: Final = 120.0
_LOUD: Final = ("distributed", "distributed.client", "tornado.application", "asyncio")


def run(
    label: str, elements: Sequence[Any], step: beam.DoFn, engine: Engine, done: Callable[[], float] | None = None
) -> None:
    """Runs a step on the cluster at `engine.cluster`; see `run_step`.

    Raises UsageError where no scheduler answers there or the step cannot be sent, WorkerError when there are no
    workers, when they do not see what the step needs, or when several died at one element.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(
            "Dask is not installed", remedy="pip install 'glimmer-memory[dask]', here and on the workers"
        ) from error
    assert engine.cluster is not None
    address = engine.cluster if "://" in engine.cluster else f"tcp://{engine.cluster}"
    with _silent_logs():
        try:
            client = Client(address, timeout=_CONNECT_S, set_as_default=False, name="glimmer")
        except (OSError, ValueError) as error:
            raise UsageError(
                f"no Dask scheduler answers at {address}", remedy="start one with `dask scheduler`"
            ) from error
        with client:
            _Run(client, address, label, step).run(elements)


@contextlib.contextmanager
def _silent_logs() -> Iterator[None]:
    """Keeps Dask from logging, with tracebacks, what is told as an error here."""
    loggers = {logger: logger.level for name in _LOUD if (logger := logging.getLogger(name))}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


class _Run:
    """One step on a connected cluster."""

    def __init__(self, client: Any, address: str, label: str, step: beam.DoFn) -> None:
        self._client, self._address, self._label = client, address, label
        self._seen_workers = time.monotonic()
        content = pickled_step(label, step)
        with busy(f"waiting for workers at {address}"):
            while not self._workers():
                self._check_workers()
                time.sleep(0.1)
        hosts = Counter(str(known["host"]) for known in self._workers().values())
        self._step = _Step(name=f"{label}-{uuid.uuid4().hex}", content=content, workers_of_host=dict(hosts))

    def run(self, elements: Sequence[Any]) -> None:
        """Has every element done. On an error, what has not begun is cancelled."""
        self._check_sight()
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        futures = []
        try:
            for index, element in enumerate(elements):
                key = f"{self._step.name}-{index}"
                futures.append(self._client.submit(_run_element, self._step, element, key=key, pure=False))
                futures[-1].add_done_callback(ended.put)
            left = set(range(len(elements)))
            while left:
                try:
                    future = ended.get(timeout=1.0)
                except queue.Empty:
                    self._check_workers()
                    continue
                index = int(future.key.rpartition("-")[2])
                self._check(future, elements[index])
                left.discard(index)
        finally:
            with contextlib.suppress(Exception):  # a lost scheduler has told its error already
                self._client.cancel([future for future in futures if not future.done()], force=True)
                self._client.run(_tear_down, self._step.name)

    def _workers(self) -> dict[str, Any]:
        """Address -> what the scheduler knows of a worker."""
        workers: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return workers

    def _check_workers(self) -> None:
        """WorkerError when the scheduler is lost, or has had no workers for a minute."""
        if self._client.status not in ("running", "connecting"):
            raise self._lost()
        if self._workers():
            self._seen_workers = time.monotonic()
        elif time.monotonic() - self._seen_workers > _WITHOUT_WORKERS_S:
            raise WorkerError(
                f"the Dask scheduler at {self._address} has had no workers for {_WITHOUT_WORKERS_S:.0f} seconds",
                remedy=f"start some with `dask worker {self._address}`, and run the same command again to resume",
            )

    def _check_sight(self) -> None:
        """WorkerError unless every worker has what the step needs: Glimmer itself, its memory, its model."""
        found = self._client.run(_check, self._step, on_error="return")
        blind = {
            name: error
            for name, error in found.items()
            if isinstance(error, Exception) and not isinstance(error, OSError)  # of a worker that has gone meanwhile
        }
        for name, error in blind.items():
            more = f" (and {len(blind) - 1} more of {len(found)} workers)" if len(blind) > 1 else ""
            raise WorkerError(
                f"the Dask worker {name}{more} cannot do its work: {_in_words(error)}",
                remedy="every worker needs the same release of Glimmer, and the same files at the same paths",
            ) from error

    def _check(self, future: Any, element: Any) -> None:
        """Raises what came of a task that is no result."""
        from distributed.scheduler import KilledWorker

        if future.status == "finished":
            return
        if future.status != "error":  # cancelled or lost
            raise self._lost()
        error = future.exception()
        if isinstance(error, KilledWorker):
            last = error.last_worker.address
            raise WorkerError(
                f"several Dask workers died at element {element!r} of {self._label}, the last one {last}",
                remedy="give them more memory, and run the same command again to resume",
            ) from error
        raise error

    def _lost(self) -> WorkerError:
        return WorkerError(
            f"the Dask scheduler at {self._address} is gone", remedy="run the same command again to resume"
        )


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, GlimmerError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A pickled step, the name under which its copies are kept in a worker, how many workers each host has."""

    name: str
    content: bytes
    workers_of_host: dict[str, int]


@dataclass
class _Copies:
    """The copies of one step in a worker process that are set up and free: as many as it has threads, at most."""

    free: list[ElementLoop] = field(default_factory=list)
    used: float = field(default_factory=time.monotonic)


_lock = threading.Lock()
_copies: dict[str, _Copies] = defaultdict(_Copies)
_sweeper: threading.Thread | None = None


def _run_element(step: _Step, element: Any) -> str:
    """In a worker: runs one element with a copy of the step that is free, or a new one; says who did it."""
    with _lock:
        copies = _copies[step.name]
        loop = copies.free.pop() if copies.free else None
    if loop is None:
        with share_of_processors(_workers_here(step)):
            loop = ElementLoop(pickle.loads(step.content)).__enter__()
    try:
        loop.run(element)
    except BaseException as error:
        loop.__exit__(type(error), error, error.__traceback__)
        raise
    with _lock:
        copies = _copies[step.name]
        copies.free.append(loop)
        copies.used = time.monotonic()
    _sweep()
    return this_process()


def _check(step: _Step) -> None:
    """In a worker: raises what keeps the step from its work here, without loading anything large."""
    check = getattr(pickle.loads(step.content), "check", None)
    if check is not None:
        check()


def _tear_down(name: str) -> None:
    """In a worker: tears down the free copies of a step."""
    with _lock:
        copies = _copies.pop(name, None)
    for loop in copies.free if copies else ():
        loop.__exit__(None, None, None)


def _sweep() -> None:
    """In a worker: keeps a thread that tears down what its job has left behind."""
    global _sweeper
    with _lock:
        if _sweeper is None or not _sweeper.is_alive():
            _sweeper = threading.Thread(target=_tear_down_idle, name="idle steps", daemon=True)
            _sweeper.start()


def _tear_down_idle() -> None:
    while True:
        time.sleep(_IDLE_S / 4)
        with _lock:
            idle = [name for name, copies in _copies.items() if time.monotonic() - copies.used > _IDLE_S]
        for name in idle:
            _tear_down(name)


def _workers_here(step: _Step) -> int:
    """How many workers this machine has, as far as the job knew when it began."""
    from distributed import get_worker
    from distributed.comm.addressing import get_address_host

    return step.workers_of_host.get(get_address_host(get_worker().address), 1)
