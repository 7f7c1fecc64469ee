"""Beam's steps share what a process holds: weights load once, whatever the threads, and are gone when the job ends."""

from __future__ import annotations

import gc
import pickle
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from glimmer import UsageError
from glimmer.encoders.memory_encoder import MemoryEncoder
from glimmer.pipelines.answer import answer_file
from glimmer.pipelines.answering import range_graph
from glimmer.pipelines.answering.query_range import RangeAnswerer
from glimmer.pipelines.encode import encode
from glimmer.pipelines.encoding import shard_graph
from glimmer.pipelines.engines import Engine
from glimmer.pipelines.per_process import Count, PerProcess
from glimmer.storage.memory import Memory

FOUR_THREADS = Engine(options=["--direct_num_workers=4", "--direct_running_mode=multi_threading"])


class Value:
    """Something that can be referred to weakly, and takes its time to be made."""

    made = 0

    def __init__(self) -> None:
        time.sleep(0.05)
        Value.made += 1


def failing() -> Value:
    raise UsageError("no such value")


def test_threads_that_come_at_once_get_one_value_which_is_dropped_with_the_last() -> None:
    Value.made = 0
    content, together = pickle.dumps(PerProcess(Value)), threading.Barrier(4)

    def use(_: int) -> weakref.ref[Value]:
        handle: PerProcess[Value] = pickle.loads(content)
        together.wait()
        with handle as value:
            together.wait()
            return weakref.ref(value)

    with ThreadPoolExecutor(4) as pool:
        references = list(pool.map(use, range(4)))
    gc.collect()
    assert Value.made == 1
    assert [reference() for reference in references] == [None] * 4


def test_a_value_that_cannot_be_made_is_everybodys_error_and_is_tried_again() -> None:
    handle = PerProcess(failing)
    for _ in range(2):
        with pytest.raises(UsageError, match="no such value"):
            handle.acquire()
    handle.release()  # a step may be torn down though its setup failed


def test_other_handles_have_other_values() -> None:
    with PerProcess(Count) as one, PerProcess(Count) as other:
        one.add(3)
        assert (one.value, other.value) == (3, 0)


class Loads:
    """Counts what is made by `make`, and tells what of it is still there."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make, self._lock = make, threading.Lock()
        self.threads: set[str] = set()
        self.references: list[weakref.ref[Any]] = []

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        made = self._make(*arguments, **settings)
        with self._lock:
            self.references.append(weakref.ref(made))
        return made

    @property
    def left(self) -> int:
        gc.collect()
        return sum(reference() is not None for reference in self.references)


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Callable[..., Path],
    tiny_corpus: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> Path:
    directory = tmp_path_factory.mktemp("world")
    tiny_model(directory / "model", memory_layers=1, live_a=1, live_b=1, window=32)
    tiny_corpus(directory / "corpus.jsonl", 200)
    tiny_questions(directory / "questions.jsonl", 24)
    return directory


def test_four_threads_of_an_encode_job_load_the_weights_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoders, steps = Loads(MemoryEncoder), Loads(shard_graph.ShardEncoder)
    monkeypatch.setattr(shard_graph, "MemoryEncoder", encoders)
    monkeypatch.setattr(shard_graph, "ShardEncoder", steps)
    monkeypatch.setattr(shard_graph, "MOST_SHARDS_IN_A_GROUP", 1)
    result = encode(
        sources=[str(world / "corpus.jsonl")],
        memory=tmp_path / "m",
        model=str(world / "model"),
        passage_words=2,
        engine=FOUR_THREADS,
    )
    assert Memory.open(tmp_path / "m").passages == result.plan.passages > 3072
    assert len(steps.references) >= 4
    assert len(encoders.references) == 1
    assert (encoders.left, steps.left) == (0, 0)


def test_four_threads_of_an_answering_job_load_the_reader_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(sources=[str(world / "corpus.jsonl")], memory=tmp_path / "m", model=str(world / "model"))
    arguments: dict[str, Any] = {
        "queries": world / "questions.jsonl",
        "memory": tmp_path / "m",
        "model": world / "model",
        "candidates": 4,
        "batch_size": 2,
    }
    answer_file(**arguments, output=tmp_path / "alone.jsonl")
    readers = Loads(RangeAnswerer)
    monkeypatch.setattr(range_graph, "RangeAnswerer", readers)
    answer_file(**arguments, output=tmp_path / "shared.jsonl", engine=FOUR_THREADS, range_queries=3)
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert (len(readers.references), readers.left) == (1, 0)
