"""The engine that needs nothing: Beam's `FnApiRunner` with in-memory workers, in this process.

It suits JAX, as one process owns the devices. It is named outright since `DirectRunner` first tries to download another
runner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from .beam_graph import run_here
from .engine import Engine


def run(
    label: str, elements: Sequence[Any], step: beam.DoFn, engine: Engine, done: Callable[[], float] | None = None
) -> None:
    """Runs a step in this process; see `run_step`."""
    run_here(label, elements, step, runner=FnApiRunner(), options=engine.options)
