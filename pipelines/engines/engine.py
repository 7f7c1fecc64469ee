"""What an engine is asked for by: a runner's name and its settings. Importing it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

IN_PROCESS: Final = "in-process"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where the steps of a job run.

    Attributes:
        runner: `in-process`, or the name of a Beam runner.
        options: Beam options to give the runner, as `--name=value` strings.
        workers: processes on this machine that share the elements of each step; 1 runs them in this process.
    """

    runner: str = IN_PROCESS
    options: Sequence[str] = ()
    workers: int = 1
