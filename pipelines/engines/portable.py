"""A server of Beam's job API at `host:port`: Flink, Spark and Prism have one, and so has Beam's own Python runner.

Where the server says nothing else, its workers are threads of this process when it is on this machine (`LOOPBACK`);
other environments are given as Beam options (`--environment_type=EXTERNAL`, `DOCKER`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.runners.portability.portable_runner import PortableRunner

from ... import UsageError
from .beam_graph import run_there
from .engine import Engine

_CONNECT_S = 20.0


def run(
    label: str, elements: Sequence[Any], step: beam.DoFn, engine: Engine, done: Callable[[], float] | None = None
) -> None:
    """Runs a step by the job server at `engine.endpoint`; see `run_step`. UsageError if nobody answers there."""
    assert engine.endpoint is not None
    with grpc.insecure_channel(engine.endpoint) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_CONNECT_S)
        except grpc.FutureTimeoutError:
            raise UsageError(
                f"no job server answers at {engine.endpoint}", remedy="start it, or give another --endpoint"
            ) from None
    options = [f"--job_endpoint={engine.endpoint}", *engine.options]
    if _is_here(engine.endpoint) and not any(option.startswith("--environment_type") for option in options):
        options.append("--environment_type=LOOPBACK")
    run_there(
        *(label, elements, step),
        runner=PortableRunner(),
        options=options,
        stall_seconds=engine.stall_seconds,
        done=done,
    )


def _is_here(endpoint: str) -> bool:
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
