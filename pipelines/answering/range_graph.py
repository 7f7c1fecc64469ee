"""Answering as a step: ranges of the query file in, one prediction file for each range out, then one file.

The step runs on every engine. A worker continues a
range's file where an earlier attempt left it, and a range counts as done when its file has its final name, so retries
and restarts cost time and nothing else. Joining the files in order gives the very bytes of the in-process job: what a
query is answered does not depend on the range it is in.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import orjson

from ... import StorageError, UsageError
from ...progress import Progress, polled
from ...storage.files import make_directories
from ..engines import Engine, run_step
from ..engines.worker_rates import WorkerFiles
from ..per_process import Count, PerProcess
from .query_range import AnswerWork, RangeAnswerer
from .tally import Tally

RANGE_QUERIES = 2_048
"""Queries of a range."""


def query_ranges(first: int, count: int, size: int = RANGE_QUERIES) -> list[tuple[int, int]]:
    """Ranges (start, stop) of queries `first` to `count`, cut at multiples of `size`."""
    edges = [first, *range((first // size + 1) * size, count, size), count]
    return [(start, stop) for start, stop in pairwise(edges) if start < stop]


class AnswerRanges(beam.DoFn):
    """Answers ranges of queries into files of `parts`; outputs nothing, the files are the result.

    All copies of the step in one process share a reader, loaded once and dropped with the last of them, and take turns:
    one range keeps the device and three threads busy.
    """

    def __init__(self, work: AnswerWork, parts: str, answered: PerProcess[Count]) -> None:
        self._work, self._parts, self._answered = work, parts, answered
        self._loaded = PerProcess(functools.partial(_load, work))

    def check(self) -> None:
        """Raises what keeps this process from running the step, and loads nothing large."""
        self._check_output()
        self._work.check_sight()

    def _check_output(self) -> None:
        if not Path(self._parts).is_dir():
            raise UsageError(
                "a worker does not see the directory of the output",
                where=self._parts,
                remedy="name an --output that every worker sees at the same path",
            )

    def setup(self) -> None:
        self._check_output()
        with contextlib.ExitStack() as stack:
            self._reader = stack.enter_context(self._loaded)
            self._count = stack.enter_context(self._answered)
            self._in_use = stack.pop_all()

    def process(self, span: tuple[int, int]) -> Iterator[None]:
        with self._reader.turn:
            answer_part(self._reader.answerer, Path(self._parts), *span, self._count)
        return iter(())

    def teardown(self) -> None:
        del self._reader  # it holds the weights
        self._in_use.close()


class _Reader(NamedTuple):
    """A reader, and the lock of whoever uses it."""

    answerer: RangeAnswerer
    turn: threading.Lock


def _load(work: AnswerWork) -> _Reader:
    return _Reader(RangeAnswerer(work), threading.Lock())


def answer_part(answerer: RangeAnswerer, parts: Path, start: int, stop: int, answered: Count) -> None:
    """Answers queries `start` to `stop` into their part file, unless it is finished already; `answered` counts them."""
    final = part_path(parts, start, stop)
    if final.exists():
        return
    # Its own: a worker that was given up may still write, while another does the range again.
    partial = final.with_suffix(f".{secrets.token_hex(8)}.partial")
    counted = 0

    def count(written: int) -> None:
        nonlocal counted
        answered.add(written - counted)
        counted = written

    # From the start of the range, whatever an earlier attempt wrote: the tally has to count all of it.
    with answerer.open_output(partial, start, stop, restart=True) as writer:
        tally = answerer.answer(writer, start, stop, on_written=count)
        settings = writer.settings_path
    try:
        final.with_suffix(".json").write_bytes(orjson.dumps(tally.to_json()))
        os.replace(partial, final)
        settings.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{final} cannot be written: {error.strerror}; run the same command again") from error


def _parts(work: AnswerWork, output: Path) -> Path:
    """Where the parts go. Their settings are in the name: parts of another kind must never be joined."""
    digest = hashlib.sha256(orjson.dumps(dict(work.settings), option=orjson.OPT_SORT_KEYS)).hexdigest()
    return output.with_name(f"{output.name}.parts-{digest[:12]}")


def discard_parts(work: AnswerWork, output: Path) -> None:
    """Removes what an earlier run left of parts that nobody needs any more."""
    shutil.rmtree(_parts(work, output), ignore_errors=True)


def part_path(parts: Path, start: int, stop: int) -> Path:
    """The finished prediction file of a range."""
    return parts / f"{start:010d}-{stop:010d}.jsonl"


def answer_on_engine(
    work: AnswerWork, *, output: Path, first: int, engine: Engine, progress: Progress, range_queries: int
) -> Tally:
    """Answers queries from `first` on and appends them to `output`, which holds the ones before.

    Raises what a worker raised; finished and half-finished parts stay for the next run.
    """
    parts = _parts(work, output)
    spans = query_ranges(first, work.queries.count, range_queries)
    left = [span for span in spans if not part_path(parts, *span).exists()]
    before = first + sum(stop - start for start, stop in spans if (start, stop) not in set(left))
    counts = PerProcess(Count)

    def finished() -> int:
        done = sum(stop - start for start, stop in left if part_path(parts, start, stop).exists())
        return before + max(done, answered.value)  # the count is finer, and knows nothing of other processes

    if left:
        make_directories(parts)
        progress.at(before)
        with counts as answered, polled(progress, finished):
            place = str(parts.resolve())
            files = WorkerFiles(place=place, key=f"workers-{secrets.token_hex(8)}", unit="queries", amount=_queries)
            run_step("Answer", left, AnswerRanges(work, place, counts), engine, finished, files)
    return _join(parts, spans, output)


def _queries(span: tuple[int, int]) -> int:
    return span[1] - span[0]


def _join(parts: Path, spans: Sequence[tuple[int, int]], output: Path) -> Tally:
    """Appends the parts to the predictions, in order, all or nothing; then removes them."""
    tally = Tally()
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as whole:
            for path in (output, *(part_path(parts, *span) for span in spans)):
                with path.open("rb") as part:
                    shutil.copyfileobj(part, whole, 1 << 20)
            whole.flush()
            os.fsync(whole.fileno())
        for span in spans:
            tally.add(Tally.from_json(orjson.loads(part_path(parts, *span).with_suffix(".json").read_bytes())))
        os.replace(temporary, output)
        shutil.rmtree(parts)
    except OSError as error:
        raise StorageError(
            f"{output} cannot be put together: {error.strerror}; the parts are safe in {parts}, run the same command "
            "again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return tally
