"""What an engine is asked for by: a runner's name and its settings. Importing it imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ... import UsageError

IN_PROCESS: Final = "in-process"
DASK: Final = "dask"
PORTABLE: Final = "portable"
STALL_SECONDS: Final = 1800.0


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where the steps of a job run: in this process, unless something else is said. Settings that clash: UsageError.

    Attributes:
        runner: `in-process`, `dask`, `portable` (a server of Beam's job API), or the name of another Beam runner.
        workers: of `in-process`, processes on this machine that share the work; 1 does it in this process.
        cluster: of `dask`, the address of the scheduler, as `host:port`, `tcp://host:port` or `tls://host:port`.
        endpoint: of `portable`, `host:port` of the job server.
        options: Beam options to give a Beam runner, as `--name=value` strings.
        stall_seconds: how long a Beam runner may make no progress before its job is given up.

    Examples:
        >>> glimmer.Engine(workers=4).is_this_process
        False
    """

    runner: str = IN_PROCESS
    workers: int = 1
    cluster: str | None = None
    endpoint: str | None = None
    options: Sequence[str] = ()
    stall_seconds: float = STALL_SECONDS

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"{self.workers} workers can do nothing", remedy="ask for at least one")
        for name, belongs_to in (("cluster", DASK), ("endpoint", PORTABLE)):
            given = getattr(self, name)
            if given is not None and self.runner != belongs_to:
                raise UsageError(f"{name} {given} belongs to the runner {belongs_to}, not to {self.runner}")
            if given is None and self.runner == belongs_to:
                raise UsageError(f"the runner {belongs_to} needs an address", remedy=f"give --{name} HOST:PORT")
        if self.workers > 1 and self.runner != IN_PROCESS:
            raise UsageError(f"workers are processes on this machine; the runner {self.runner} has workers of its own")
        if self.workers > 1 and self.options:
            raise UsageError("worker processes take no Beam options", remedy="leave out workers, or the options")
        if self.options and self.runner == DASK:
            raise UsageError("the runner dask takes no Beam options", remedy="leave them out")

    @property
    def is_this_process(self) -> bool:
        """Whether all work is done in this process."""
        return self.runner == IN_PROCESS and self.workers == 1
