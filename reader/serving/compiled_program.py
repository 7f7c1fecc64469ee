"""A function compiled ahead of its first call at each shape, so that a job can tell compiling from running."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax

from ...encoders.captured_arrays import CapturedArrays
from ...progress import busy
from .clock import COMPILE, Clock

_log = logging.getLogger(__name__)


class Program:
    """`function`, jitted; a call names its shape.

    `clock` gets the seconds of compiling, and the argument `static` is a static one. `captured` keeps the large arrays
    that the function closes over, once for all shapes; without static arguments.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        clock: Clock,
        *,
        static: str | None = None,
        captured: CapturedArrays | None = None,
    ) -> None:
        self._function, self._captured = function, captured
        self._static = () if static is None else (static,)
        self._clock = clock
        self._compiled: dict[Hashable, Any] = {}

    def __call__(self, shape: Hashable, *arguments: Any, **static: Any) -> Any:
        program = self._compiled.get(shape)
        if program is None:
            name = getattr(self._function, "__name__", "a stage")
            begun = time.monotonic()
            with self._clock.stage(COMPILE), busy(f"compiling {name.strip('_').replace('_', ' ')}"):
                program = self._compile(arguments, static)
            _log.debug("compiled %s for %s in %.1f s", name, shape, time.monotonic() - begun)
            self._compiled[shape] = program
        return program(*arguments)

    def _compile(self, arguments: tuple[Any, ...], static: dict[str, Any]) -> Callable[..., Any]:
        if self._captured is None:
            function = jax.jit(self._function, static_argnames=self._static)
            return function.lower(*arguments, **static).compile()
        arrays, with_arrays = self._captured.of(self._function, *arguments)
        return functools.partial(jax.jit(with_arrays).lower(arrays, *arguments).compile(), arrays)
