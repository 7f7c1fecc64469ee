"""A real Dask cluster on 127.0.0.1: a scheduler and worker processes, on free ports, ended by their ids."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_SETTINGS = {
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "60s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__GIL__ENABLED": "False",
}


class DaskServers:
    """A scheduler with `workers` worker processes, each of `threads` threads, without nannies: who dies stays dead.

    As a context manager it is there once all workers have joined. Its log lies in `directory`.
    """

    def __init__(self, directory: Path, workers: int, *, threads: int = 1) -> None:
        self._directory, self._wanted, self._threads = directory, workers, threads
        self.workers: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        file = self._directory / "scheduler.json"
        file.unlink(missing_ok=True)
        local = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")
        self.scheduler = self._start("scheduler", *local, "--port", "0", "--scheduler-file", str(file))
        self.address = str(json.loads(_awaited(file, self.scheduler))["address"])
        for _ in range(self._wanted):
            self.add_worker()
        self._await_workers()
        return self

    def add_worker(self) -> subprocess.Popen[bytes]:
        """Starts one more worker and does not wait for it."""
        local = ("--host", "127.0.0.1", "--no-dashboard", "--no-nanny", "--local-directory", str(self._directory))
        worker = self._start("worker", self.address, *local, "--nthreads", str(self._threads), "--memory-limit", "0")
        self.workers.append(worker)
        return worker

    def kill_worker(self, number: int = 0) -> None:
        """SIGKILL for one of the workers, which is forgotten here."""
        worker = self.workers.pop(number)
        worker.kill()
        worker.wait()

    def _start(self, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._directory / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", kind, *arguments],
                env=os.environ | _SETTINGS | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _await_workers(self) -> None:
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(self._wanted, timeout=60)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
        for process in (*self.workers, self.scheduler):
            process.wait()


def _awaited(file: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if file.is_file() and (content := file.read_text()).endswith("}"):
            return content
        time.sleep(0.05)
    raise RuntimeError("the Dask scheduler did not start")
