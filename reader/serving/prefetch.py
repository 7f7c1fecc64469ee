"""Work done ahead: an iterator that runs in a thread of its own, a few items before its consumer.

Reading (retrieval, payload, texts) and computing then overlap, with a bounded number of items in memory. What the
producer raises, the consumer gets; a consumer that leaves early stops the producer.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

_T = TypeVar("_T")
_POLL_S = 0.1


class _End:
    """What the producer puts last: the error it ended with, if any."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


@contextmanager
def prefetched(items: Iterator[_T], *, ahead: int, name: str = "prefetch") -> Iterator[Iterator[_T]]:
    """Runs `items` in a thread called `name`, at most `ahead` items before the consumer; leaving the block ends it.

    The thread finishes the item it is making before it ends.
    """
    ready: queue.Queue[_T | _End] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(item: _T | _End) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=_POLL_S)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as raised:  # handed to the consumer, whatever it is
            error = raised
        put(_End(error))

    def consume() -> Iterator[_T]:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    thread = threading.Thread(target=produce, name=name, daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stop.set()
        thread.join()
