"""What exists before a step is left out of garbage collections while it runs, and only then."""

from __future__ import annotations

import gc
import weakref

import pytest

from glimmer.pipelines.engines.frozen_heap import frozen_heap


class Node:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_was_there_before_is_left_out_until_the_outermost_block_ends() -> None:
    before = Node()
    old = weakref.ref(before)
    with frozen_heap():
        with frozen_heap():
            del before
        gc.collect()
        assert old() is not None
    gc.collect()
    assert old() is None


def test_what_the_step_makes_is_collected() -> None:
    with frozen_heap():
        made = weakref.ref(Node())
        gc.collect()
        assert made() is None


def test_an_error_ends_it() -> None:
    with pytest.raises(ValueError, match="of the step"), frozen_heap():
        raise ValueError("of the step")
    assert gc.get_freeze_count() == 0
