"""How long an encode job takes on a number of workers, stage by stage, and what holds each stage up.

Within a stage a worker does one thing after another: it asks the store and waits, moves bytes, computes. So a stage
takes the sum of what its resources take, and the largest of them binds. Encoding and writing run at once, so the slower
of the two counts; the other stages follow one another. Rates are inputs, with defaults that were measured on a core of
a server; `benchmarks/estimate_vs_run.py` measures yours with a small corpus and tries the estimate on a larger one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from ... import UsageError
from ...storage.passage import SHARD_ROWS
from ...storage.stores.object_settings import REQUESTS_AT_ONCE
from .estimate import Offline
from .store_requests import Price, Requests, encode_requests, polling_requests

DISK: Final = "disk"
BUCKET: Final = "bucket"
STORES: Final = (DISK, BUCKET)
"""A disk is shared by the workers, a bucket answers each of them with its own bandwidth."""

SOURCE_BYTES: Final = 1_590.0
"""Of source text for a passage: KILT's 35 GB for 22 million."""

PLANNING_RATE: Final = 4.0e6
WRITING_RATE: Final = 250.0e6
_HASHED: Final = 1.0e9  # bytes of sources a second that one thread hashes
_SHARD_SECONDS: Final = 0.04  # of a writer for any shard, however small its codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The processes that share a job, each with one accelerator (or, without any, its share of the processor).

    Attributes:
        count: how many there are.
        tokens_per_second: tokens of passages that one worker encodes; padding is no token.
        cores: processor cores of each, for planning: one process a core.
        planning_rate: bytes of source text that one core cuts and tokenises in a second.
        writing_rate: bytes of codes that one worker compresses, hashes and hands to the store in a second; it writes
            one shard after another.
        passages_per_second: passages whose text one worker reads and whose codes it puts in their places.
        committed_per_second: passages for which the driver reads text again and makes a row of the catalog.
        start_seconds: of the whole job: starting processes, loading weights, compiling.
    """

    count: int = 1
    tokens_per_second: float
    cores: float = 16.0
    planning_rate: float = PLANNING_RATE
    writing_rate: float = WRITING_RATE
    passages_per_second: float = 50_000.0
    committed_per_second: float = 200_000.0
    start_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0 and not (name == "start_seconds" and value == 0):
                raise UsageError(f"{name} must be positive, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Where the memory goes: a disk or a bucket, its bandwidth (bytes a second) and the time one request takes."""

    kind: str = DISK
    bandwidth: float = 1.0e9
    request_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in STORES:
            raise UsageError(f"no kind of store {self.kind!r}; there are: {', '.join(STORES)}")
        if not self.bandwidth > 0 or not self.request_seconds >= 0:
            raise UsageError("a store needs a positive bandwidth, and requests that take no negative time")

    def total_bandwidth(self, workers: int) -> float:
        """Bytes a second for all workers together."""
        return self.bandwidth * (workers if self.kind == BUCKET else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage: `needs` are the seconds that it spends on each resource, one after another."""

    name: str
    needs: dict[str, float]

    @property
    def seconds(self) -> float:
        """Wall time."""
        return sum(self.needs.values())

    @property
    def binds(self) -> str:
        """The resource that takes most of it."""
        return max(self.needs, key=self.needs.__getitem__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEstimate:
    """An encode job on workers; `stages` in their order, `requests` by stage, `stored_bytes` what the memory takes."""

    workers: Workers
    storage: Storage
    source_bytes: float
    stages: tuple[Stage, ...]
    requests: tuple[Requests, ...]
    stored_bytes: float
    price: Price | None = None

    @property
    def seconds(self) -> float:
        """Wall time of the job: encoding and writing run at once."""
        alone = sum(stage.seconds for stage in self.stages if stage.name not in _AT_ONCE)
        return alone + max(stage.seconds for stage in self.stages if stage.name in _AT_ONCE)

    @property
    def binds(self) -> Stage:
        """The longest stage."""
        return max(self.stages, key=lambda stage: stage.seconds)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        found: dict[str, Any] = {
            "workers": asdict(self.workers),
            "storage": asdict(self.storage),
            "source_bytes": self.source_bytes,
            "seconds": self.seconds,
            "stages": [
                {"name": stage.name, "seconds": stage.seconds, "binds": stage.binds, "needs": stage.needs}
                for stage in self.stages
            ],
            "requests": [one.to_json() for one in self.requests],
            "stored_bytes": self.stored_bytes,
        }
        if self.price is not None:
            found["price"] = {
                "requests": self.price.of(self.requests),
                "stored_per_month": self.price.stored * self.stored_bytes / 1e9,
            }
        return found


_AT_ONCE: Final = ("encode", "write")


def _reads_at_once(storage: Storage) -> int:
    """Small files that the driver asks for together."""
    return REQUESTS_AT_ONCE if storage.kind == BUCKET else 1


def estimate_job(
    offline: Offline, *, workers: Workers, storage: Storage, source_bytes: float, price: Price | None = None
) -> JobEstimate:
    """How long the job takes that encodes `offline`, and what it asks of the store.

    Args:
        offline: the corpus and the memory, of `estimate`.
        workers, storage: what runs it, and where the memory goes.
        source_bytes: of the sources, decompressed.
        price: of the store.

    Raises UsageError for sources of no bytes.
    """
    if not source_bytes > 0:
        raise UsageError(f"source_bytes must be positive, not {source_bytes}")
    requests = encode_requests(
        passages=offline.passages,
        source_bytes=source_bytes,
        text_bytes=offline.text_bytes,
        code_bytes=offline.code_bytes,
        catalog_bytes=offline.catalog_bytes,
    )
    planning, encoding, writing, committing = requests
    shards = -(-offline.passages // SHARD_ROWS)
    count = min(workers.count, shards)
    bandwidth = storage.total_bandwidth(count)

    def asked(one: Requests, at_once: float) -> dict[str, float]:
        moved = one.bytes_put + one.bytes_read
        return {"bandwidth": moved / bandwidth, "requests": one.count * storage.request_seconds / at_once}

    stages = (
        Stage(name="start", needs={"starting up": workers.start_seconds}),
        Stage(
            name="identify",
            needs={"processor": source_bytes / _HASHED, "bandwidth": source_bytes / storage.bandwidth},
        ),
        Stage(
            name="plan",
            needs={"processor": source_bytes / (workers.planning_rate * workers.cores * workers.count)}
            | asked(planning, workers.cores * workers.count),
        ),
        Stage(
            name="encode",
            needs={
                "accelerator": offline.tokens / (workers.tokens_per_second * count),
                "processor": offline.passages / (workers.passages_per_second * count),
            }
            | asked(encoding, count),
        ),
        Stage(
            name="write",
            needs={"processor": (offline.code_bytes / workers.writing_rate + shards * _SHARD_SECONDS) / count}
            | asked(writing, count),
        ),
        Stage(
            name="commit",
            needs={
                "processor": offline.passages / workers.committed_per_second,
                "bandwidth": (committing.bytes_put + committing.bytes_read) / storage.bandwidth,
                "requests": (committing.count - committing.get + committing.get / _reads_at_once(storage))
                * storage.request_seconds,
            },
        ),
    )
    during = max(stage.seconds for stage in stages if stage.name in _AT_ONCE)
    polls = polling_requests(passages=offline.passages, seconds=during, request_seconds=storage.request_seconds)
    return JobEstimate(
        workers=workers,
        storage=storage,
        source_bytes=source_bytes,
        stages=stages,
        requests=(planning, replace(encoding, list=polls), writing, committing),
        stored_bytes=offline.bytes,
        price=price,
    )
