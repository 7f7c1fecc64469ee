"""Where the time of an answering job goes, stage by stage.

Stages overlap: reading runs in one thread while the device computes in another, so their seconds may sum to more than
the wall time. Device stages are timed by waiting for their results. On CPUs that costs nothing and every batch is
timed; on accelerators waiting would idle the device, so one batch in `SAMPLED` is timed and stands for the others.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

STAGES = ("retrieve", "fetch", "decompress", "question", "live A", "live B", "decode", "write")
"""In the order of the pipeline. `fetch` reads shards and undoes zstd; `decompress` is the codec, on the device."""

LATE_INTERACTION = "late interaction"
"""Where candidates are chosen by it, after `fetch`; the codec's decode is within."""

COMPILE = "compile"
SAMPLED = 8


class Clock:
    """Seconds by stage. Each stage belongs to one thread; different stages may run in different threads."""

    def __init__(self, *, every: int | None = None) -> None:
        self._every = every if every is not None else (1 if jax.default_backend() == "cpu" else SAMPLED)
        self._host: defaultdict[str, float] = defaultdict(float)
        self._device: defaultdict[str, float] = defaultdict(float)
        self._batches = self._timed = 0
        self._timing = False

    @contextmanager
    def stage(self, name: str, *, compiles: bool = False) -> Iterator[None]:
        """Times a block of host work; of one that `compiles`, in the thread that compiles, without that."""
        compiling = self._host[COMPILE] if compiles else 0.0
        begun = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            self._host[name] += spent - (self._host[COMPILE] - compiling if compiles else 0.0)

    def next_batch(self) -> None:
        """The device starts on another batch."""
        self._timing = self._batches % self._every == 0
        self._batches += 1
        self._timed += self._timing

    @contextmanager
    def device(self, name: str) -> Iterator[list[Any]]:
        """Times a block that dispatches device work; put into the list what its end is to be waited for."""
        compiling = self._host[COMPILE]
        begun = time.perf_counter()
        results: list[Any] = []
        yield results
        if self._timing:
            jax.block_until_ready(results)  # type: ignore[no-untyped-call]
            spent = time.perf_counter() - begun
            self._device[name] += max(0.0, spent - (self._host[COMPILE] - compiling))

    def seconds(self) -> dict[str, float]:
        """Seconds by stage so far, in the order of `STAGES`; then others, and `compile`, where there were such."""
        stages = [*STAGES, *([LATE_INTERACTION] if LATE_INTERACTION in self._host else [])]
        scale = self._batches / self._timed if self._timed else 0.0
        spent = {name: self._host.get(name, 0.0) + scale * self._device.get(name, 0.0) for name in stages}
        return spent | ({COMPILE: self._host[COMPILE]} if self._host.get(COMPILE) else {})


def added(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Seconds of two parts of a job together, the stages of the first leading."""
    return {name: first.get(name, 0.0) + second.get(name, 0.0) for name in dict.fromkeys([*first, *second])}
