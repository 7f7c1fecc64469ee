"""Errors: their parts, their one line, and their way home from a worker process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import apache_beam as beam
import pytest

import glimmer
from glimmer import DamageError, GlimmerError, StorageError
from glimmer.pipelines.cli.group import describe_error
from glimmer.pipelines.engines import Engine, run_step
from glimmer.storage.segment_reader import RowDamageError

KINDS = [getattr(glimmer, name) for name in glimmer.__all__ if name.endswith("Error")]


class QuotaError(StorageError):
    """A kind of error that nobody else knows, with arguments of its own."""

    def __init__(self, used: int, allowed: int) -> None:
        super().__init__(f"{used} of {allowed} bytes are used", where="/memories", remedy="ask for more")
        self.used, self.allowed = used, allowed


def _raise_quota(_: int) -> None:
    raise QuotaError(9, 8)


def _raise_row_damage(_: int) -> None:
    raise RowDamageError("seg-a", 1030, "codes/c.1.0.0: crc")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_where_what_and_what_to_do(kind: type[GlimmerError]) -> None:
    error = kind("is no directory", where=Path("/a b"), remedy="name another")
    assert (error.what, error.where, error.remedy) == ("is no directory", "/a b", "name another")
    assert str(error) == "/a b: is no directory; name another"
    assert error.problem == "/a b: is no directory"
    assert str(kind("all in one")) == "all in one"
    assert error.at("/elsewhere").where == "/a b"
    assert str(kind("is empty").at("/c")) == "/c: is empty"


@pytest.mark.parametrize(
    "error",
    [
        *(kind("is no directory", where="/a", remedy="name another") for kind in KINDS),
        RowDamageError("seg-a", 1030, "codes/c.1.0.0: crc"),
        QuotaError(9, 8),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickling_whole(error: GlimmerError) -> None:
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.__dict__ == error.__dict__


def test_an_error_comes_home_from_a_worker_process() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, pytest.raises(RowDamageError) as caught:
        pool.submit(_raise_row_damage, 0).result()
    assert (caught.value.segment, caught.value.row, caught.value.shard) == ("seg-a", 1030, 1)


class Failing(beam.DoFn):
    """A step that calls `fail`."""

    def __init__(self, fail: Callable[[int], None]) -> None:
        self._fail = fail

    def process(self, element: int) -> Iterator[None]:
        self._fail(element)
        return iter(())


@pytest.mark.parametrize("fail", [_raise_quota, _raise_row_damage])
def test_an_error_of_a_step_arrives_as_it_was_raised(fail: Callable[[int], None]) -> None:
    with pytest.raises(GlimmerError) as caught:
        run_step("Fails", [1], Failing(fail), Engine())
    assert "while running" not in str(caught.value)
    assert type(caught.value) in (QuotaError, RowDamageError)


def test_the_parts_of_a_steps_error_stay() -> None:
    def fail(_: int) -> None:
        raise DamageError("is torn", where="/m/codes", remedy="run `glimmer repair /m`")

    with pytest.raises(DamageError) as caught:
        run_step("Fails", [1], Failing(fail), Engine())
    assert (caught.value.what, caught.value.where) == ("is torn", "/m/codes")
    assert caught.value.remedy == "run `glimmer repair /m`"


def test_an_error_that_only_this_file_knows_is_one_line_with_status_1() -> None:
    line, status = describe_error(QuotaError(9, 8))
    assert (line, status) == ("glimmer: error: /memories: 9 of 8 bytes are used; ask for more", 1)


def test_the_errors_import_nothing_heavy() -> None:
    code = "import sys, glimmer.errors; sys.exit(any(n in sys.modules for n in ('numpy', 'jax', 'apache_beam')))"
    subprocess.run([sys.executable, "-c", code], check=True)
