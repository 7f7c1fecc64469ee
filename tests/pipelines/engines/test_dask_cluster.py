"""A step on a Dask cluster: real scheduler, real workers, which may die, be slow, or not see what they need."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from dask_servers import DaskServers
from steps import Blind, Note, noted

from glimmer import UsageError
from glimmer.pipelines.engines import Engine, dask_cluster, run_step
from glimmer.pipelines.engines.worker_error import WorkerError


def numbers(count: int) -> list[str]:
    return sorted(map(str, range(count)))


def on(servers: DaskServers) -> Engine:
    return Engine(runner="dask", cluster=servers.address)


def test_each_worker_sets_a_step_up_once_and_tears_it_down(dask: DaskServers, tmp_path: Path) -> None:
    run_step("Note", range(12), Note(tmp_path, seconds=0.05, together=2), on(dask))
    assert noted(tmp_path, "element") == numbers(12)
    assert len(noted(tmp_path, "setup")) == 2
    assert noted(tmp_path, "setup") == noted(tmp_path, "teardown")


def test_a_slow_element_holds_up_no_other(dask: DaskServers, tmp_path: Path) -> None:
    begun = time.monotonic()
    ended: list[float] = []

    def watch() -> None:
        while len(noted(tmp_path, "element")) < 9:
            time.sleep(0.02)
        ended.append(time.monotonic() - begun)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run_step("Note", range(10), Note(tmp_path, slow=0), on(dask))
    watcher.join()
    assert ended[0] < time.monotonic() - begun - 0.5
    assert noted(tmp_path, "element") == numbers(10)


def test_an_error_of_a_step_arrives_as_it_was_raised(
    dask: DaskServers, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        run_step("Note", range(6), Note(tmp_path, bad=3), on(dask))
    assert str(caught.value) == "element 3: cannot be done; leave it out"
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_that_does_not_see_the_memory_is_named_before_work_starts(dask: DaskServers, tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        run_step("Note", range(6), Blind(tmp_path), on(dask))
    assert str(caught.value).startswith("the Dask worker tcp://127.0.0.1:")
    assert "(and 1 more of 2 workers) cannot do its work: /memories/wiki: no such memory;" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dask_cluster, "_CONNECT_S", 1)
    with pytest.raises(UsageError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9;"):
        run_step("Note", [1], Note(tmp_path), Engine(runner="dask", cluster="127.0.0.1:9"))


@pytest.mark.slow
def test_what_a_dead_worker_had_is_done_by_another_and_an_element_that_kills_all_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, always = tmp_path / "once", tmp_path / "always"
    once.mkdir()
    always.mkdir()
    with DaskServers(tmp_path / "dask", 3) as servers:
        run_step("Note", range(8), Note(once, deadly=3, seconds=0.05), on(servers))
        assert noted(once, "element") == numbers(8)
        monkeypatch.setattr(dask_cluster, "_WITHOUT_WORKERS_S", 3.0)
        with pytest.raises(WorkerError, match="has had no workers for 3 seconds; start some with `dask worker"):
            run_step("Note", range(8), Note(always, deadly=3, deaths=99, seconds=0.05), on(servers))
        monkeypatch.undo()
        for _ in range(4):
            servers.add_worker()
        with pytest.raises(WorkerError, match="several Dask workers died at element 3 of Note"):
            run_step("Note", range(8), Note(always, deadly=3, deaths=99, seconds=0.05), on(servers))
