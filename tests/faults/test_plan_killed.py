"""The driver of a job killed while it plans: what was planned is kept, and the memory is the one it would have been.

GLIMMER_KILLS=20 tries more moments than the two of a usual run; every other one plans with two processes.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from changing import texts, write
from small_world import World, assert_same_memory

from glimmer.pipelines.encode import encode
from glimmer.pipelines.planning.plan_parts import complete_parts
from glimmer.progress import Quiet
from glimmer.storage.ledger import JOBS
from glimmer.storage.stores import open_store

MOMENTS = range(int(os.environ.get("GLIMMER_KILLS", "2")))
RANGE_BYTES = 15_000
DRIVER = """
from glimmer.pipelines.encode import encode
from glimmer.pipelines.engines import Engine
if __name__ == "__main__":
    encode(sources=[{source!r}], memory={memory!r}, model={model!r}, range_bytes={range_bytes}, passage_words=20,
           engine=Engine(workers={workers}))
"""


def parts(memory: Path) -> dict[str, int]:
    """The complete parts of the one job there is."""
    store = open_store(memory)
    return {
        f"{job}/{cut}/{name}": passages
        for job in store.names(JOBS)
        for cut in store.names(f"{JOBS}/{job}/plan")
        for name, passages in complete_parts(store, f"{JOBS}/{job}/plan/{cut}").items()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> World:
    """A corpus of about thirty ranges, in which some articles stand twice, far apart."""
    directory = tmp_path_factory.mktemp("world")
    corpus = write(directory / "corpus.jsonl", texts(600))
    content = corpus.read_text()
    corpus.write_text(content + content[: content.index("\n", 3000) + 1])
    model = tiny_model(directory / "tiny", with_decoder=False)
    encode(sources=[corpus], memory=directory / "whole", model=str(model), passage_words=20)
    return World(model=model, corpus=corpus, questions=directory / "none", memory=directory / "whole")


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_plan_resumes_at_its_finished_ranges(
    moment: int, world: World, tmp_path: Path, tried: Callable[..., None]
) -> None:
    dice, workers = random.Random(f"plan {moment}"), 1 + moment % 2
    source, model, memory = world.corpus, world.model, tmp_path / "killed"
    script = DRIVER.format(
        source=str(source), memory=str(memory), model=str(model), range_bytes=RANGE_BYTES, workers=workers
    )
    driver = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    finished = dice.randrange(1, 16)
    while driver.poll() is None and len(parts(memory)) < finished:
        time.sleep(0.002)
    time.sleep(dice.uniform(0, 0.02))
    driver.kill()
    driver.wait()
    written = {path: path.stat().st_mtime_ns for path in memory.glob(f"{JOBS}/*/plan/**/*.done-*")}
    # On a busy machine it may be seen so late that it plans no more.
    planning = driver.returncode == -signal.SIGKILL and not list(memory.glob(f"{JOBS}/*/plan.json"))
    said: list[str] = []

    def unchanged() -> bool:
        return all(path.stat().st_mtime_ns == stamp for path, stamp in written.items())

    class Watching(Quiet):
        def done(self) -> None:
            said.append("unchanged" if unchanged() else "written again")

    result = encode(
        sources=[source],
        memory=memory,
        model=str(model),
        range_bytes=RANGE_BYTES,
        passage_words=20,
        progress=Watching(),
    )
    if planning:
        assert len(written) >= finished
        assert said[:2] == ["unchanged", "unchanged"], "the sources are identified, then planned"
    assert result.plan.rejected["duplicate_id"] >= 3
    assert_same_memory(memory, world.memory)
    assert not list((memory / JOBS).glob("encode-*/"))
    planners = "one process" if workers == 1 else "two processes"
    tried(
        f"kill -9 of a job that plans with {planners}", "no finished range is planned again; same bytes", int(planning)
    )
