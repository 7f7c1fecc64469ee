"""Steps run by a server of Beam's job API, with workers in this process or in a pool, one of which may die."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from beam_servers import worker_pool
from steps import Note, noted

from glimmer import DamageError, GlimmerError, UsageError
from glimmer.pipelines.engines import Engine, run_step
from glimmer.pipelines.engines.carried_errors import error_in
from glimmer.pipelines.engines.worker_error import WorkerError


@pytest.fixture(autouse=True)
def _usual_log_level() -> Iterator[None]:
    """As in a new process: a test of --debug leaves another level."""
    log = logging.getLogger("apache_beam")
    level = log.level
    log.setLevel(logging.NOTSET)
    yield
    log.setLevel(level)


def test_a_step_runs_in_this_process_where_the_server_is_on_this_machine(endpoint: str, tmp_path: Path) -> None:
    run_step("Note", range(5), Note(tmp_path), Engine(runner="portable", endpoint=endpoint))
    assert noted(tmp_path, "element") == sorted(map(str, range(5)))


def test_an_error_of_a_step_arrives_in_one_line(
    endpoint: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        run_step("Note", range(5), Note(tmp_path, bad=2), Engine(runner="portable", endpoint=endpoint))
    assert str(caught.value) == "element 2: cannot be done; leave it out"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_a_job_whose_workers_have_died_is_given_up(endpoint: str, tmp_path: Path) -> None:
    with worker_pool(tmp_path / "pool") as (address, pool):
        engine = Engine(
            runner="portable",
            endpoint=endpoint,
            options=["--environment_type=EXTERNAL", f"--environment_config={address}"],
            stall_seconds=4,
        )

        def kill() -> None:
            for process in (*psutil.Process(pool.pid).children(recursive=True), psutil.Process(pool.pid)):
                process.kill()

        timer = threading.Timer(4, kill)
        timer.start()
        try:
            with pytest.raises(WorkerError, match="no progress with Note for 4 seconds"):
                run_step(
                    *("Note", range(20), Note(tmp_path, seconds=1.5), engine),
                    done=lambda: len(noted(tmp_path, "element")),
                )
        finally:
            timer.join()


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("glimmer.pipelines.engines.portable._CONNECT_S", 0.5)
    with pytest.raises(UsageError, match=r"no job server answers at 127\.0\.0\.1:9"):
        run_step("Note", [1], Note(tmp_path), Engine(runner="portable", endpoint="127.0.0.1:9"))


@pytest.mark.parametrize(
    "text", ["no error of ours", "glimmer-error<>", "glimmer-error<AAAA>", "glimmer-error<bnVsbA==>"]
)
def test_a_text_without_an_error_carries_none(text: str) -> None:
    assert error_in(text) is None


def test_a_kind_that_is_not_public_arrives_as_the_one_above() -> None:
    text = "glimmer-error<eyJraW5kIjogIm9zIiwgIndoYXQiOiAieCIsICJ3aGVyZSI6IG51bGwsICJyZW1lZHkiOiBudWxsfQ==>"
    error = error_in(f"words {text} words")
    assert type(error) is GlimmerError
    assert not isinstance(error, DamageError)
