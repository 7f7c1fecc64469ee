"""The worker process of `local_processes`: `python -m glimmer.pipelines.engines.worker_process DESCRIPTOR`.

It takes elements from the connection at the descriptor until it is told that there are no more. When the connection
ends, its parent is gone, and it leaves at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from .frozen_heap import collect_seldom
from .processor_share import share_of_processors

_FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"


@dataclass(frozen=True, kw_only=True)
class WorkerStart:
    """The first message to a worker: which of how many it is, the pickled step, and the level of the log."""

    number: int
    workers: int
    step: bytes
    log_level: int


def main(descriptor: int) -> None:
    """Serves the connection at `descriptor` to its end."""
    collect_seldom()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, whose end is this process's
    signal.signal(signal.SIGTERM, lambda *_: _leave())
    connection = Connection(descriptor)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, inbox), name="inbox", daemon=True).start()
    start = inbox.get()
    _log_to_stderr(start)
    try:
        _work(connection, inbox, start)
    except Exception as error:
        _tell(connection, None, error)
        inbox.get()  # until the parent, which knows now, ends this process


def _receive(connection: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):
            _leave()


def _work(connection: Connection, inbox: queue.SimpleQueue[Any], start: WorkerStart) -> None:
    from .element_loop import ElementLoop

    with contextlib.ExitStack() as stack:
        with share_of_processors(start.workers):
            loop = stack.enter_context(ElementLoop(pickle.loads(start.step)))
        _tell(connection, None, None)
        while (message := inbox.get()) is not None:
            index, element = message
            loop.run(element)
            _tell(connection, index, None)


def _tell(connection: Connection, ended: int | None, error: Exception | None) -> None:
    import cloudpickle

    if error is not None:
        error.add_note("".join(traceback.format_exception(error)))
    try:
        content = cloudpickle.dumps((ended, error))
        pickle.loads(content)
    except Exception:  # an error that cannot be sent
        content = pickle.dumps((ended, RuntimeError(f"{type(error).__name__}: {error}")))
    connection.send_bytes(content)


def _log_to_stderr(start: WorkerStart) -> None:
    """The log of a worker looks like the one of its parent, and is as detailed; of libraries it shows nothing."""
    logging.getLogger().addHandler(logging.NullHandler())
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{_FORMAT} [worker {start.number + 1}]", datefmt="%H:%M:%S"))
    logger = logging.getLogger("glimmer")
    logger.addHandler(handler)
    logger.setLevel(start.log_level or logging.WARNING)
    logger.propagate = False


def _leave() -> None:
    temporary = sys.modules.get("glimmer.storage.temporary")  # not there: nothing temporary was made
    if temporary is not None:
        temporary.remove_all()
    os._exit(1)


if __name__ == "__main__":
    from glimmer.pipelines.engines import worker_process

    worker_process.main(int(sys.argv[1]))
    os._exit(0)
