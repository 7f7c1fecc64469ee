"""A step as a Beam graph: `Create(elements) | Reshuffle | ParDo(step)`, run to its end by a Beam runner.

The graph needs nothing that some runner lacks: no side inputs, no outputs, no metrics.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineRunner

from ... import GlimmerError


def run_graph(
    label: str, elements: Sequence[Any], step: beam.DoFn, *, runner: PipelineRunner, options: Sequence[str]
) -> None:
    """Builds the graph and runs it to its end with `runner` and `options`, which are Beam's, as `--name=value`.

    Raises the `GlimmerError` that the step raised, as it was.
    """
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
