"""Engines: where the steps of a job run. Every job calls `run_step`; one module of this room is one engine.

A step is a Beam `DoFn` without outputs: what it does to an element lies in the memory, or beside the job's output, when
it has ended, so an element that is done again does no harm. An engine brings every element through the step's `setup`,
`start_bundle`, `process`, `finish_bundle` and `teardown`, in whatever order and processes, at least once.
"""

from .engine import IN_PROCESS, Engine
from .engine_registry import run_step

__all__ = ["IN_PROCESS", "Engine", "run_step"]
