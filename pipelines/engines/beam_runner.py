"""Any runner that Beam knows by name, with its own options passed through.

Its workers need a file system or a bucket that they share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.runners import runner as beam_runners

from ... import UsageError
from .beam_graph import run_there
from .engine import IN_PROCESS, Engine


def run(
    label: str, elements: Sequence[Any], step: beam.DoFn, engine: Engine, done: Callable[[], float] | None = None
) -> None:
    """Runs a step with the Beam runner `engine.runner`; see `run_step`. UsageError if there is no such runner."""
    try:
        runner = beam_runners.create_runner(engine.runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(
            f"runner {engine.runner!r} is not available: {error}; use --runner {IN_PROCESS} or a runner of Beam's"
        ) from error
    run_there(
        *(label, elements, step),
        runner=runner,
        options=engine.options,
        stall_seconds=engine.stall_seconds,
        done=done,
    )
