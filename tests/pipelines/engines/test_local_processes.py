"""Processes on this machine that share the elements of a step, one of which may die or be slow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from steps import Note, noted

from glimmer import UsageError
from glimmer.pipelines.engines import Engine, run_step
from glimmer.pipelines.engines.worker_error import WorkerError

TWO = Engine(workers=2)


def numbers(count: int) -> list[str]:
    return sorted(map(str, range(count)))


def test_every_element_is_done_by_workers_that_set_up_and_tear_down_once(tmp_path: Path) -> None:
    run_step("Note", range(12), Note(tmp_path, seconds=0.05, together=2), TWO)
    assert noted(tmp_path, "element") == numbers(12)
    assert len(noted(tmp_path, "setup")) == 2
    assert noted(tmp_path, "setup") == noted(tmp_path, "teardown")
    assert str(os.getpid()) not in noted(tmp_path, "setup")
    assert len({path.read_text() for path in tmp_path.glob("element-*")}) == 2


def test_there_are_no_more_workers_than_elements(tmp_path: Path) -> None:
    run_step("Note", [7], Note(tmp_path), Engine(workers=5))
    assert len(noted(tmp_path, "setup")) == 1


def test_an_error_of_a_step_arrives_as_it_was_raised(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run_step("Note", range(6), Note(tmp_path, bad=3), TWO)
    assert str(caught.value) == "element 3: cannot be done; leave it out"


def test_what_a_killed_worker_had_is_done_again(tmp_path: Path) -> None:
    run_step("Note", range(8), Note(tmp_path, deadly=3, seconds=0.02), TWO)
    assert noted(tmp_path, "element") == numbers(8)
    assert noted(tmp_path, "death") == ["0"]


def test_an_element_that_kills_two_workers_is_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        run_step("Note", range(8), Note(tmp_path, deadly=3, deaths=9), TWO)
    assert "killed by SIGKILL (out of memory?) at element 3 of Note, as worker" in str(caught.value)
    assert noted(tmp_path, "death") == ["0", "1"]


def test_a_step_that_cannot_be_sent_is_refused(tmp_path: Path) -> None:
    step = Note(tmp_path)
    step.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="cannot be sent to another process"):
        run_step("Note", [1, 2], step, TWO)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_do_not_outlive_the_process_that_started_them(number: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from steps import Note; from glimmer.pipelines.engines import *\n"
        "run_step('Note', range(8), Note(Path(sys.argv[1]), seconds=60), Engine(workers=2))"
    )
    path = os.pathsep.join(sys.path)
    driver = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(workers := noted(tmp_path, "setup")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(number)
    assert driver.wait(30) == -number
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
