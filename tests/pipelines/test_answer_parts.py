"""The small parts that an answering job stands on: work done ahead, seconds by stage, ranges, shapes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimmer.encoders.models import load_model
from glimmer.pipelines.answering.range_graph import query_ranges
from glimmer.pipelines.answering.tally import shown_numbers
from glimmer.reader.serving.clock import STAGES, Clock
from glimmer.reader.serving.prefetch import prefetched
from glimmer.reader.serving.question_batches import Shapes


def test_items_come_in_order_and_only_so_many_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    with prefetched(items(), ahead=2) as ready:
        for number, item in enumerate(ready):
            assert item == number
            time.sleep(0.002)
            assert len(made) <= number + 5  # taken, two waiting, one in the producer's hand, one being made


def test_the_producers_error_reaches_the_consumer() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk gone")

    with prefetched(items(), ahead=2) as ready, pytest.raises(OSError, match="disk gone"):
        list(ready)


def test_leaving_early_ends_the_thread() -> None:
    threads = threading.active_count()
    with prefetched(iter(range(1000)), ahead=2) as ready:
        assert next(ready) == 0
    assert threading.active_count() == threads


def test_sampled_device_seconds_stand_for_all_batches() -> None:
    clock = Clock(every=4)
    for _ in range(8):
        clock.next_batch()
        with clock.device("live A") as wait:
            time.sleep(0.005)
            wait.append(jnp.zeros(3))
    seconds = clock.seconds()
    assert list(seconds) == list(STAGES)
    assert 8 * 0.005 <= seconds["live A"] < 8 * 0.25


@given(count=st.integers(1, 300), first=st.integers(0, 299), size=st.integers(1, 64))
def test_ranges_cover_what_is_left_once_and_are_cut_at_fixed_places(count: int, first: int, size: int) -> None:
    first = min(first, count)
    ranges = query_ranges(first, count, size)
    assert [number for start, stop in ranges for number in range(start, stop)] == list(range(first, count))
    assert all(stop % size == 0 for _, stop in ranges[:-1])


@given(count=st.integers(1, 300), first=st.integers(0, 299))
def test_queries_shown_are_spread_evenly(count: int, first: int) -> None:
    first = min(first, count - 1)
    shown = shown_numbers(first, count)
    assert len(set(shown)) == min(25, count - first)
    assert shown[0] == first
    assert all(first <= number < count for number in shown)


def test_a_shape_holds_what_it_is_for_and_is_one_of_few(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    shapes = Shapes(load_model(tiny_model(tmp_path / "m", window=256)), 256)
    assert shapes.longest_question == 256, "512 positions less the passage's 256"
    seen = {shapes.of(question, passage) for question in range(1, 257) for passage in range(1, 257)}
    assert len(seen) == 5 * 6
    for question, passage in ((1, 1), (17, 129), (256, 256)):
        shape = shapes.of(question, passage)
        assert shape.question >= question
        assert shape.passage >= passage
    assert shapes.of(12, 180) == (16, 192)
