"""The driver of a job killed while it plans: what was planned is kept, and the memory is the one it would have been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from changing import texts, write
from small_world import assert_same_memory

from glimmer.pipelines.encode import encode
from glimmer.pipelines.planning.plan_parts import complete_parts
from glimmer.progress import Quiet
from glimmer.storage.ledger import JOBS
from glimmer.storage.stores import open_store

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


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_plan_resumes_at_its_finished_ranges(
    tmp_path: Path, tiny_model: Callable[..., Path], workers: int
) -> None:
    model = tiny_model(tmp_path / "tiny", with_decoder=False)
    source = write(tmp_path / "corpus.jsonl", texts(600))
    content = source.read_text()
    source.write_text(content + content[: content.index("\n", 3000) + 1])  # some articles twice, far apart
    encode(sources=[source], memory=tmp_path / "whole", model=str(model), passage_words=20)
    memory = tmp_path / "killed"
    script = DRIVER.format(
        source=str(source), memory=str(memory), model=str(model), range_bytes=RANGE_BYTES, workers=workers
    )
    driver = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    while len(parts(memory)) < 4:
        assert driver.poll() is None, "it is killed while it plans"
        time.sleep(0.002)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    [job] = (memory / JOBS).iterdir()
    assert not (job / "plan.json").exists()
    written = {path: path.stat().st_mtime_ns for path in job.rglob("*.done-*")}
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
    assert said[:2] == ["unchanged", "unchanged"], "the sources are identified, then planned"
    assert result.plan.rejected["duplicate_id"] >= 3
    assert_same_memory(memory, tmp_path / "whole")
    assert not list((memory / JOBS).glob("encode-*/"))
