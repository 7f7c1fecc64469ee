"""Beam's own job server and worker pool in Python, on free ports of 127.0.0.1, ended by their ids."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _started(log: Path, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


@contextmanager
def job_server(directory: Path) -> Iterator[str]:
    """`host:port` of a job server."""
    directory.mkdir(parents=True, exist_ok=True)
    ports = directory / "port"
    server = _started(
        directory / "job-server.log",
        "apache_beam.runners.portability.local_job_service_main",
        *("--port", "0", "--port_file", str(ports), "--staging_dir", str(directory / "staging")),
    )
    try:
        deadline = time.monotonic() + 60
        while not (ports.is_file() and ports.read_text().strip()):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"127.0.0.1:{ports.read_text().strip()}"
    finally:
        server.kill()
        server.wait()


@contextmanager
def worker_pool(directory: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`host:port` of a worker pool, and its process."""
    directory.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pool = _started(
        directory / "worker-pool.log", "apache_beam.runners.worker.worker_pool_main", "--service_port", str(port)
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert pool.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"127.0.0.1:{port}", pool
    finally:
        pool.kill()
        pool.wait()
