"""Object stores on this machine, for tests: SeaweedFS and moto's S3, on loopback, started and ended by process id."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

BUCKET: Final = "memories"
KEY, SECRET = "test-key", "test-secret"
_STARTS_WITHIN_S: Final = 60


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def binary(name: str) -> str | None:
    """The program `name` beside this Python, or on the path; None where it is not installed."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


class ObjectServer:
    """A server of the S3 protocol that keeps its objects in `directory` (moto: in memory), with one bucket.

    It can be killed and started again on the same port. `environment` is what a process needs to reach it.
    """

    program: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.ports = free_ports(8)
        self.url = f"http://127.0.0.1:{self.ports[0]}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.url)

    def start(self) -> None:
        command = self._command()
        found = binary(command[0])
        assert found is not None
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen([found, *command[1:]], stdout=log, stderr=log, start_new_session=True)
        try:
            self._until(self._answers)
            self._until(self._has_bucket)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Ends the process at once, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _until(self, ready: Any) -> None:
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not ready():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server does not start: {(self.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=2).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def _has_bucket(self) -> bool:
        """Makes the bucket, and sees that objects can be put there: SeaweedFS grows its volumes first."""
        from obstore.store import S3Store

        try:
            _make_bucket(self.url)
            store = S3Store(
                BUCKET,
                endpoint=self.url,
                region="us-east-1",
                access_key_id=KEY,
                secret_access_key=SECRET,
                client_options={"allow_http": True},
                retry_config={"max_retries": 0},
            )
            store.put("ready", b"x")
            store.delete("ready")
        except Exception:  # not yet
            return False
        return True


def environment(url: str) -> dict[str, str]:
    """What a process needs to reach a server at `url`."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _make_bucket(url: str) -> None:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=1),
    )
    if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)


class SeaweedServer(ObjectServer):
    """SeaweedFS: objects survive its being killed. Its telemetry is off."""

    program = "weed"

    def _command(self) -> list[str]:
        names = ["s3.port", "master.port", "volume.port", "filer.port"]
        names += ["s3.port.grpc", "master.port.grpc", "volume.port.grpc", "filer.port.grpc"]
        rights = ["Admin", "Read", "Write", "List", "Tagging"]
        who = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": rights}
        config = self.directory / "s3.json"
        config.write_text(json.dumps({"identities": [who]}))
        return [
            self.program,
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={self.directory}",
            "-filer",
            "-s3",
            f"-s3.config={config}",
            "-master.telemetry=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=40",
            *(f"-{name}={port}" for name, port in zip(names, self.ports, strict=True)),
        ]


class MotoServer(ObjectServer):
    """moto's server: a second opinion on the protocol, whose objects are gone when it ends."""

    program = "moto_server"

    def _command(self) -> list[str]:
        return [self.program, "-H", "127.0.0.1", "-p", str(self.ports[0])]


def clean_environment() -> dict[str, str]:
    """This process's environment without variables that say how to reach an object store."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
