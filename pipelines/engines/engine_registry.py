"""Which module runs the steps of which engine; it is imported when the engine is first used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from .engine import DASK, IN_PROCESS, PORTABLE, Engine

if TYPE_CHECKING:
    import apache_beam as beam

    from .worker_rates import WorkerFiles, WorkerRate

_PROCESSES: Final = "local processes"
_MODULES: Final = {IN_PROCESS: "in_process", _PROCESSES: "local_processes", DASK: "dask_cluster", PORTABLE: "portable"}
_OF_BEAM: Final = "beam_runner"


class StepRunner(Protocol):
    """The function `run` that each engine's module has; arguments and errors are those of `run_step`."""

    def __call__(
        self, label: str, elements: Sequence[Any], step: beam.DoFn, engine: Engine, done: Callable[[], float] | None
    ) -> None: ...


def run_step(
    label: str,
    elements: Sequence[Any],
    step: beam.DoFn,
    engine: Engine,
    done: Callable[[], float] | None = None,
    files: WorkerFiles | None = None,
) -> list[WorkerRate]:
    """Runs `step` over `elements` where `engine` says, and returns when all are done.

    Args:
        label: what the step is called in displays and errors, such as `Encode`.
        elements: what `process` of the step is called with, in any order, possibly twice; small and picklable.
        step: a `beam.DoFn` without outputs. Engines with other processes pickle it.
        engine: where it runs.
        done: an amount that grows as elements end, such as the rows in a job's ledger. Beam runners that cannot tell
            that a worker has died are given up when it stands still.
        files: where workers note what they have done; used where they are other processes.

    Returns what each worker has done, as far as `files` are given and used.

    Raises the `GlimmerError` that the step raised, as it was; a `UsageError` for an engine that is not available.
    """
    name = _PROCESSES if engine.runner == IN_PROCESS and engine.workers > 1 else engine.runner
    module = import_module(f".{_MODULES.get(name, _OF_BEAM)}", __package__)
    run = cast(StepRunner, module.run)
    if files is None or engine.is_this_process:
        run(label, elements, step, engine, done)
        return []
    from .worker_rates import Metered, log_rates, logged

    with logged(files):
        run(label, elements, Metered(step, files), engine, done)
    rates = files.read()
    log_rates(rates)
    return rates
