"""Engines: where a Beam graph runs.

Every job builds its graph as a function of a `beam.Pipeline` and hands it to `run_graph`. The in-process engine is
Beam's `FnApiRunner` with in-memory workers, which suits JAX: one process owns the devices. It is named outright since
`DirectRunner` first tries to download another runner. Any other runner Beam knows is chosen by name, with its own
options passed through, and needs a file system that its workers share.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import GlimmerError, UsageError

if TYPE_CHECKING:
    import apache_beam as beam

IN_PROCESS = "in-process"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A runner's name (`in-process`, or one of Beam's) and the Beam options to give it, as `--name=value` strings."""

    runner: str = IN_PROCESS
    options: Sequence[str] = ()


def run_graph(build: Callable[[beam.Pipeline], None], engine: Engine) -> None:
    """Builds a graph and runs it to its end.

    Raises the `GlimmerError` that a step raised, as it was, or a `UsageError` naming a runner that does not exist.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners import runner as beam_runner
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    beam_log = logging.getLogger("apache_beam")
    if beam_log.level == logging.NOTSET:  # what the caller set stays
        beam_log.setLevel(logging.ERROR)
    options = PipelineOptions(list(engine.options), save_main_session=False)
    runner: object
    if engine.runner == IN_PROCESS:
        runner = FnApiRunner()
    else:
        try:
            runner = beam_runner.create_runner(engine.runner)
        except (ValueError, ImportError, AttributeError) as error:
            raise UsageError(
                f"runner {engine.runner!r} is not available: {error}; use --runner {IN_PROCESS} or a runner of Beam's"
            ) from error
    pipeline = beam.Pipeline(runner=runner, options=options)
    with _labels_as_they_are():
        build(pipeline)
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:
        raise _original(error) from error


@contextmanager
def _labels_as_they_are() -> Iterator[None]:
    """Steps keep their labels in a notebook.

    There Beam would put the cell's number before each, for which it imports its interactive runner and pandas, which
    Glimmer does not need otherwise.
    """
    from apache_beam import pipeline

    names = vars(pipeline)
    alter = names["alter_label_if_ipython"]
    names["alter_label_if_ipython"] = lambda transform, pvalueish: None
    try:
        yield
    finally:
        names["alter_label_if_ipython"] = alter


def _original(error: BaseException) -> BaseException:
    """The error a step raised: in-memory workers rethrow it wrapped, with our own type as cause or in the text."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, GlimmerError):
            return _without_step(seen)
        seen = seen.__cause__ or seen.__context__
    return error


def _without_step(error: GlimmerError) -> GlimmerError:
    """The error as the step raised it: Beam raises a copy with the step's name, the original its context."""
    original = error.__context__
    copied = type(original) is type(error) and error.args[0].startswith(original.args[0])
    return original if copied else error  # type: ignore[return-value]
