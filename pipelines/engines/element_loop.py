"""A step in another process: sent, set up once, then given one element after another, each in a bundle of its own.

An element has ended when its bundle has: what the step handed to threads of its own is written then.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, Self

import apache_beam as beam
import cloudpickle

from ... import UsageError
from .frozen_heap import frozen_heap


class ElementLoop:
    """A step between `setup` and `teardown`, as a context manager. For one thread at a time."""

    def __init__(self, step: beam.DoFn) -> None:
        self._step = step
        self._frozen = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._step.setup()
        self._frozen.enter_context(frozen_heap())
        return self

    def run(self, element: Any) -> None:
        """Runs the step on one element, to the end of its bundle. Raises what the step raises."""
        self._step.start_bundle()
        for _ in self._step.process(element) or ():
            pass
        self._step.finish_bundle()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._frozen.close()
        with contextlib.nullcontext() if error is None else contextlib.suppress(Exception):
            self._step.teardown()  # after an error, that is what is told


def pickled_step(label: str, step: beam.DoFn) -> bytes:
    """The step as it is sent to other processes, in which `pickle.loads` makes a copy. UsageError for one that cannot
    be sent."""
    try:
        content: bytes = cloudpickle.dumps(step)
    except Exception as error:  # whatever an attribute's own pickling raises
        raise UsageError(f"the step {label} cannot be sent to another process: {error}") from error
    return content
