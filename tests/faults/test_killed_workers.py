"""kill -9 of a worker, or of the process that started the job, at random moments: one version, sound, the same bytes.

GLIMMER_KILLS=20 tries more moments than the two of a usual run.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from dask_servers import DaskServers
from small_world import World, assert_same_memory

from glimmer.pipelines.encode import encode

pytestmark = pytest.mark.slow

Tried = Callable[..., None]
MOMENTS = range(int(os.environ.get("GLIMMER_KILLS", "2")))
_WITHIN_S = 400.0  # on a busy machine too
PROGRAM = """
import sys
from glimmer.pipelines.encode import encode
from glimmer.pipelines.encoding import shard_graph
from glimmer.pipelines.engines import Engine
shard_graph.MOST_SHARDS_IN_A_GROUP = 1
corpus, memory, model, cluster = sys.argv[1:]
engine = Engine(runner="dask", cluster=cluster) if cluster else Engine(workers=2)
encode(sources=[corpus], memory=memory, model=model, passage_words=2, engine=engine)
"""


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path], tiny_corpus: Callable[..., Path]
) -> World:
    directory = tmp_path_factory.mktemp("world")
    made = World(
        model=tiny_model(directory / "model", memory_layers=1, live_a=1, live_b=1, window=32),
        corpus=tiny_corpus(directory / "corpus.jsonl", 400),
        questions=directory / "none",
        memory=directory / "memory",
    )
    encode(sources=[made.corpus], memory=made.memory, model=str(made.model), passage_words=2)
    return made


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskServers]:
    with DaskServers(tmp_path_factory.mktemp("dask"), 2) as servers:
        yield servers


def started(world: World, memory: Path, cluster: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, (world.corpus, memory, world.model, cluster))],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(driver: subprocess.Popen[str]) -> None:
    _, errors = driver.communicate(timeout=_WITHIN_S)
    assert driver.returncode == 0, errors


def await_work(memory: Path, driver: subprocess.Popen[str]) -> None:
    """Returns when the job is planned, which is when workers begin; or when it has ended."""
    deadline = time.monotonic() + _WITHIN_S
    while driver.poll() is None and not list(memory.glob("jobs/*/plan.json")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_dask_worker(moment: int, world: World, dask: DaskServers, tmp_path: Path, tried: Tried) -> None:
    dice = random.Random(f"dask worker {moment}")
    driver = started(world, tmp_path / "m", dask.address)
    await_work(tmp_path / "m", driver)
    time.sleep(dice.uniform(0, 3))
    dask.kill_worker(dice.randrange(2))
    dask.add_worker()
    ended(driver)
    assert_same_memory(tmp_path / "m", world.memory)
    tried("kill -9 of a Dask worker", "its shards are done again; one version, same bytes")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_process_on_this_machine(moment: int, world: World, tmp_path: Path, tried: Tried) -> None:
    dice = random.Random(f"worker process {moment}")
    driver = started(world, tmp_path / "m", "")
    await_work(tmp_path / "m", driver)
    time.sleep(dice.uniform(0, 3))
    workers = psutil.Process(driver.pid).children() if driver.poll() is None else []
    if workers:
        dice.choice(workers).kill()
    ended(driver)
    assert_same_memory(tmp_path / "m", world.memory)
    tried("kill -9 of a worker process", "its shards are done again; one version, same bytes", len(workers) and 1)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("engine", ["dask", "processes"])
def test_the_process_that_started_the_job(
    engine: str, moment: int, world: World, tmp_path: Path, tried: Tried, request: pytest.FixtureRequest
) -> None:
    cluster = request.getfixturevalue("dask").address if engine == "dask" else ""
    dice = random.Random(f"driver {engine} {moment}")
    driver = started(world, tmp_path / "m", cluster)
    await_work(tmp_path / "m", driver)
    time.sleep(dice.uniform(0, 3))
    workers = psutil.Process(driver.pid).children() if driver.poll() is None else []
    killed = driver.poll() is None
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    ended(started(world, tmp_path / "m", cluster))
    assert_same_memory(tmp_path / "m", world.memory)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    tried(f"kill -9 of a job with {engine}", "run again it ends as undisturbed", killed)


def test_an_interrupted_job_leaves_no_worker(world: World, tmp_path: Path, tried: Tried) -> None:
    arguments = (world.corpus, "--memory", tmp_path / "m", "--model", world.model, "--passage-words", 2, "--workers", 2)
    driver = subprocess.Popen(
        [sys.executable, "-m", "glimmer", "encode", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    await_work(tmp_path / "m", driver)
    workers: list[psutil.Process] = []
    while len(workers) < 2:
        assert driver.poll() is None
        workers = psutil.Process(driver.pid).children()
    threading.Timer(0.5, driver.send_signal, [signal.SIGINT]).start()
    _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert errors.endswith("glimmer: interrupted; run the same command again to resume\n")
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    tried("Ctrl-C of a job with worker processes", "all of them end with it")
