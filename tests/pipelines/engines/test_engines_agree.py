"""Whatever the engine, a memory and predictions have the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beam_servers import worker_pool
from dask_servers import DaskServers
from small_world import World, assert_same_memory

from glimmer import UsageError
from glimmer.pipelines.answer import answer_file
from glimmer.pipelines.encode import encode
from glimmer.pipelines.engines import Engine
from glimmer.pipelines.maintenance.repair import repair
from glimmer.pipelines.refresh import refresh

pytestmark = pytest.mark.usefixtures("small_groups")


@pytest.fixture(
    params=[
        "2 processes",
        "dask",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("portable", "portable, a worker pool")),
    ]
)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Each engine; with `portable` workers are threads of this process, or processes of a pool."""
    if request.param == "2 processes":
        yield Engine(workers=2)
    elif request.param == "dask":
        servers: DaskServers = request.getfixturevalue("dask")
        yield Engine(runner="dask", cluster=servers.address)
    elif request.param == "portable":
        yield Engine(runner="portable", endpoint=request.getfixturevalue("endpoint"))
    else:
        with worker_pool(tmp_path / "pool") as (address, _):
            yield Engine(
                runner="portable",
                endpoint=request.getfixturevalue("endpoint"),
                options=["--environment_type=EXTERNAL", f"--environment_config={address}"],
            )


def test_a_memory_is_the_same_and_each_worker_says_what_it_did(world: World, engine: Engine, tmp_path: Path) -> None:
    result = encode(
        sources=[world.corpus],
        memory=tmp_path / "m",
        model=str(world.model),
        passage_words=2,
        engine=engine,
        range_bytes=world.corpus.stat().st_size // 7,
    )
    assert_same_memory(tmp_path / "m", world.memory)
    assert 1 <= len(result.workers) <= 2
    assert sum(each.amount for each in result.workers) == result.plan.passages
    assert all(each.per_second > 0 and each.unit == "passages" for each in result.workers)
    assert result.to_json()["workers"][0].keys() == {"worker", "amount", "unit", "seconds"}


@pytest.mark.slow
def test_so_it_is_with_four_processes(world: World, tmp_path: Path) -> None:
    four = Engine(workers=4)
    encode(sources=[world.corpus], memory=tmp_path / "m", model=str(world.model), passage_words=2, engine=four)
    assert_same_memory(tmp_path / "m", world.memory)


@pytest.mark.slow
def test_so_it_is_with_four_dask_workers(world: World, tmp_path: Path) -> None:
    with DaskServers(tmp_path / "dask", 4) as servers:
        four = Engine(runner="dask", cluster=servers.address)
        encode(sources=[world.corpus], memory=tmp_path / "m", model=str(world.model), passage_words=2, engine=four)
    assert_same_memory(tmp_path / "m", world.memory)


def test_a_refresh_is_the_same(world: World, engine: Engine, tmp_path: Path) -> None:
    lines = world.corpus.read_text().splitlines()
    changed = [json.dumps(json.loads(line) | {"text": json.loads(line)["text"][9:]}) for line in lines[:90]]
    newer = tmp_path / "newer.jsonl"
    newer.write_text("\n".join([*changed, *lines[100:]]) + "\n")
    for memory, used in ((tmp_path / "alone", None), (tmp_path / "shared", engine)):
        shutil.copytree(world.memory, memory)
        small = newer.stat().st_size // 7
        assert refresh(sources=[newer], memory=memory, max_removed=1.0, engine=used, range_bytes=small).version == 2
    assert_same_memory(tmp_path / "shared", tmp_path / "alone")


def test_damaged_shards_are_put_back(world: World, engine: Engine, tmp_path: Path) -> None:
    shutil.copytree(world.memory, tmp_path / "m")
    damaged = sorted((tmp_path / "m").glob("segments/*/codes/c.*"))[:3]
    for file in damaged:
        file.write_bytes(file.read_bytes()[:-9] + b"something")
    result = repair(memory=tmp_path / "m", engine=engine)
    assert result.sound
    assert result.repaired == {str(file.relative_to(tmp_path / "m")): "put back as it was written" for file in damaged}
    assert result.recoded > 0
    assert_same_memory(tmp_path / "m", world.memory)
    assert not list((tmp_path / "m").glob("jobs/repair-*"))


def test_predictions_are_the_same(world: World, engine: Engine, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "queries": world.questions,
        "memory": world.memory,
        "model": world.model,
        "candidates": 4,
        "batch_size": 2,
        "max_answer_tokens": 4,
    }
    answer_file(**arguments, output=tmp_path / "alone.jsonl")
    answer_file(**arguments, output=tmp_path / "shared.jsonl", engine=engine, range_queries=3)
    assert (tmp_path / "shared.jsonl").read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.parts-*"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers": 0}, "at least one"),
        ({"runner": "dask"}, "--cluster HOST:PORT"),
        ({"runner": "portable"}, "--endpoint HOST:PORT"),
        ({"cluster": "127.0.0.1:1"}, "belongs to the runner dask, not to in-process"),
        ({"runner": "dask", "cluster": "127.0.0.1:1", "workers": 2}, "has workers of its own"),
        ({"workers": 2, "options": ["--a=b"]}, "take no Beam options"),
        ({"runner": "dask", "cluster": "127.0.0.1:1", "options": ["--a=b"]}, "takes no Beam options"),
    ],
)
def test_settings_that_clash_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Engine(**settings)
    assert words in str(caught.value)


def test_a_memory_of_this_process_is_refused_by_engines_with_other_processes(world: World) -> None:
    with pytest.raises(UsageError, match="memory://engines: a memory of this process is seen by no other"):
        encode(sources=[world.corpus], memory="memory://engines", model=str(world.model), engine=Engine(workers=2))
