"""A step as a Beam graph: `Create(elements) | Reshuffle | ParDo(step)`, run to its end by a Beam runner.

The graph needs nothing that some runner lacks: no side inputs, no outputs, no metrics.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from ... import GlimmerError
from .carried_errors import WithCarriedErrors, error_in
from .frozen_heap import frozen_heap
from .worker_error import WorkerError

_LOOK_S: Final = 15.0
"""Seconds between two looks at what has been done; each may be a request to a bucket."""


def run_here(
    label: str, elements: Sequence[Any], step: beam.DoFn, *, runner: PipelineRunner, options: Sequence[str]
) -> None:
    """Builds the graph and runs it to its end with a runner of this process and Beam's `options`, as `--name=value`.

    Raises the `GlimmerError` that the step raised, as it was.
    """
    try:
        with frozen_heap():
            _graph(label, elements, step, runner, options).run().wait_until_finish()
    except Exception as error:
        raise _original(error) from error


def run_there(
    label: str,
    elements: Sequence[Any],
    step: beam.DoFn,
    *,
    runner: PipelineRunner,
    options: Sequence[str],
    stall_seconds: float,
    done: Callable[[], float] | None,
) -> None:
    """Builds the graph and has a runner with workers elsewhere run it to its end.

    Raises the error that the step raised, as far as its text tells it; WorkerError for any other failure, and when
    `done` has not grown for `stall_seconds`: some runners wait for ever for a worker that has died.
    """
    pipeline = _graph(label, elements, WithCarriedErrors(step), runner, options)
    with _silent_logs():
        outcome = _Outcome(pipeline)
        seen, moved = None, time.monotonic()
        while not outcome.wait(min(_LOOK_S, stall_seconds / 4)):
            if done is None:
                continue
            if (amount := done()) != seen:
                seen, moved = amount, time.monotonic()
            elif time.monotonic() - moved > stall_seconds:
                outcome.cancel()
                raise WorkerError(
                    f"the Beam runner has made no progress with {label} for {stall_seconds:,.0f} seconds",
                    remedy="look after its workers and run the same command again to resume (--stall-seconds)",
                )
    if outcome.error is not None:
        raise _of_runner(outcome.error, label) from outcome.error


class _Outcome(threading.Thread):
    """Runs a pipeline in a thread of its own, so that somebody can lose patience."""

    def __init__(self, pipeline: beam.Pipeline) -> None:
        super().__init__(name="Beam runner", daemon=True)
        self._pipeline = pipeline
        self._result: PipelineResult | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._pipeline.run()
            self._result.wait_until_finish()
        except Exception as error:
            self.error = error

    def wait(self, seconds: float) -> bool:
        """Whether the pipeline has ended, at the latest after `seconds`."""
        self.join(seconds)
        return not self.is_alive()

    def cancel(self) -> None:
        """Asks the runner to give up; what it answers matters no more."""
        if self._result is not None:
            threading.Thread(target=self._cancel, args=(self._result,), name="cancel", daemon=True).start()

    @staticmethod
    def _cancel(result: PipelineResult) -> None:
        with contextlib.suppress(Exception):
            result.cancel()


@contextmanager
def _silent_logs() -> Iterator[None]:
    """Keeps a runner from logging, with tracebacks, what is told as an error here; --debug shows it all the same."""
    beam_log, root = logging.getLogger("apache_beam"), logging.getLogger()
    if beam_log.level not in (logging.NOTSET, logging.ERROR):
        yield
        return
    from apache_beam.runners.worker import sdk_worker

    # A worker in this process prints the traceback of each error, perhaps when the job has ended.
    vars(sdk_worker)["print"] = _log_for_debugging
    level, nowhere = beam_log.level, logging.NullHandler()
    beam_log.setLevel(logging.CRITICAL + 1)
    root.addHandler(nowhere)
    root.addFilter(_nothing)  # of what is logged by no logger's name, as a job server's messages are
    try:
        yield
    finally:
        root.removeFilter(_nothing)
        root.removeHandler(nowhere)
        beam_log.setLevel(level)


def _log_for_debugging(*values: object, **_: object) -> None:
    """Takes the place of a worker's `print`: what it says is logged, and so shown by --debug alone."""
    logging.getLogger("apache_beam").info(" ".join(map(str, values)))


def _nothing(_: logging.LogRecord) -> bool:
    return False


def _of_runner(error: Exception, label: str) -> BaseException:
    """The step's own error if the runner's tells it, else a WorkerError with the runner's last words."""
    original = _original(error)
    if isinstance(original, GlimmerError):
        return original
    text = str(error)
    if (carried := error_in(text)) is not None:
        return carried
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = lines[-1] if lines else type(error).__name__
    return WorkerError(
        f"the Beam runner failed at {label}: {said[:500]}", remedy="see the log of its workers (--debug)"
    )


def _graph(
    label: str, elements: Sequence[Any], step: beam.DoFn, runner: PipelineRunner, options: Sequence[str]
) -> beam.Pipeline:
    beam_log = logging.getLogger("apache_beam")
    if beam_log.level == logging.NOTSET:  # what the caller set stays
        beam_log.setLevel(logging.ERROR)
    pipeline = beam.Pipeline(runner=runner, options=PipelineOptions(list(options), save_main_session=False))
    with _labels_as_they_are():
        _ = (
            pipeline
            | "Elements" >> beam.Create(list(elements))
            | "Spread" >> beam.Reshuffle()
            | label >> beam.ParDo(step)
        )
    return pipeline


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
