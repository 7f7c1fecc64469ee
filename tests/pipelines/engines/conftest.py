"""One Dask cluster, one job server, one small world and one reference memory for the tests of engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from beam_servers import job_server
from dask_servers import DaskServers
from small_world import World

from glimmer.pipelines.encode import encode
from glimmer.pipelines.encoding import shard_graph


@pytest.fixture(scope="package")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Callable[..., Path],
    tiny_corpus: Callable[..., Path],
    tiny_questions: Callable[..., Path],
) -> World:
    """The small world, encoded in this process."""
    directory = tmp_path_factory.mktemp("world")
    made = World(
        model=tiny_model(directory / "model", memory_layers=1, live_a=1, live_b=1, window=32),
        corpus=tiny_corpus(directory / "corpus.jsonl", 200),
        questions=tiny_questions(directory / "questions.jsonl", 12),
        memory=directory / "memory",
    )
    encode(sources=[made.corpus], memory=made.memory, model=str(made.model), passage_words=2)
    return made


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """An element for each shard, so that a small corpus gives every worker something to do."""
    monkeypatch.setattr(shard_graph, "MOST_SHARDS_IN_A_GROUP", 1)


@pytest.fixture(scope="package")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskServers]:
    """A Dask cluster of two workers on 127.0.0.1, for tests that leave it as it is."""
    with DaskServers(tmp_path_factory.mktemp("dask"), 2) as servers:
        yield servers


@pytest.fixture(scope="package")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a server of Beam's job API."""
    with job_server(tmp_path_factory.mktemp("beam")) as found:
        yield found
