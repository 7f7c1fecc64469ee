"""An encode job on workers: each stage takes what it needs, and the store is asked as often as a server sees."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from object_servers import MotoServer
from tiny_models import tiny_corpus, tiny_reader

from glimmer import UsageError, encode
from glimmer.pipelines.capacity.estimate import Offline, estimate
from glimmer.pipelines.capacity.job_hours import BUCKET, JobEstimate, Storage, Workers, estimate_job
from glimmer.pipelines.capacity.store_requests import KINDS, Price, encode_requests, polling_requests
from glimmer.pipelines.cli.group import glimmer

KILT_BYTES = 35e9


def offline(code_bytes: float = 48, passages: int = 22_000_000) -> Offline:
    return estimate(model="t5-base", passages=passages, passage_tokens=130, code_bytes=code_bytes).offline


def job(count: int = 1, *, code_bytes: float = 48, storage: Storage | None = None, **rates: Any) -> JobEstimate:
    workers = Workers(count=count, **({"tokens_per_second": 1e6} | rates))
    return estimate_job(offline(code_bytes), workers=workers, storage=storage or Storage(), source_bytes=KILT_BYTES)


def seconds(found: JobEstimate) -> dict[str, float]:
    return {stage.name: stage.seconds for stage in found.stages}


def test_a_stage_takes_what_its_resources_take_one_after_another() -> None:
    found = job(tokens_per_second=1e6, planning_rate=4e6, cores=10)
    by_name = {stage.name: stage for stage in found.stages}
    assert by_name["plan"].needs["processor"] == KILT_BYTES / 40e6
    assert by_name["encode"].needs["accelerator"] == 22e6 * 130 / 1e6
    assert by_name["encode"].binds == "accelerator"
    assert by_name["encode"].seconds == 2860.0 + 22e6 / 50_000 + by_name["encode"].needs["bandwidth"]
    assert by_name["commit"].binds == "processor"
    assert found.binds.name == "encode"


def test_encoding_and_writing_run_at_once_and_the_rest_one_after_another() -> None:
    found = job()
    each = seconds(found)
    assert list(each) == ["start", "identify", "plan", "encode", "write", "commit"]
    assert found.seconds == pytest.approx(sum(each.values()) - min(each["encode"], each["write"]))


def test_workers_share_what_they_can_share() -> None:
    one, eight = (seconds(job(count, storage=Storage(kind=BUCKET))) for count in (1, 8))
    for stage in ("plan", "encode", "write"):
        assert eight[stage] == pytest.approx(one[stage] / 8)
    for stage in ("start", "identify", "commit"):
        assert eight[stage] == one[stage]


def test_a_disk_is_shared_and_a_bucket_gives_each_worker_its_bandwidth() -> None:
    many: dict[str, Any] = {"count": 64, "code_bytes": 1536}
    disk = job(**many, storage=Storage(bandwidth=1e9))
    bucket = job(**many, storage=Storage(kind=BUCKET, bandwidth=1e9))
    write = {name: next(s for s in found.stages if s.name == "write") for name, found in (("d", disk), ("b", bucket))}
    assert write["d"].binds == "bandwidth"
    assert write["d"].needs["bandwidth"] == pytest.approx(64 * write["b"].needs["bandwidth"])


def test_no_more_workers_encode_than_there_are_shards() -> None:
    tiny = estimate_job(
        offline(passages=2048),
        workers=Workers(count=64, tokens_per_second=1e3),
        storage=Storage(),
        source_bytes=1e6,
    )
    encode = next(stage for stage in tiny.stages if stage.name == "encode")
    assert encode.needs["accelerator"] == 2048 * 130 / 2e3


def test_the_time_of_requests_counts_where_a_store_is_far_away() -> None:
    near, far = (job(storage=Storage(kind=BUCKET, request_seconds=wait)) for wait in (0.0, 0.1))
    assert seconds(far)["commit"] > seconds(near)["commit"]
    assert next(stage for stage in far.stages if stage.name == "commit").binds == "requests"


def test_polling_lists_the_ledger_every_two_seconds_once_the_last_answer_came() -> None:
    assert polling_requests(passages=1000, seconds=100, request_seconds=0) == 50
    assert polling_requests(passages=1000, seconds=100, request_seconds=0.5) == 40
    assert polling_requests(passages=22_000_000, seconds=100, request_seconds=0) == 500


def test_prices_are_the_users() -> None:
    price = Price.parse(["put=5", "get=0.4", "stored=0.02"])
    assert price is not None
    requests = encode_requests(passages=1024, source_bytes=1e6, text_bytes=1e6, code_bytes=1e7, catalog_bytes=1e5)
    puts, gets = (sum(getattr(one, kind) for one in requests) for kind in ("put", "get"))
    assert price.of(requests) == pytest.approx((5 * puts + 0.4 * gets) / 1000)
    assert Price.parse([]) is None
    for wrong in (["put"], ["put=x"], ["put=-1"], ["put=nan"], ["call=1"], ["put=1", "put=2"]):
        with pytest.raises(UsageError, match="say KIND=AMOUNT once"):
            Price.parse(wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Workers(tokens_per_second=0),
        lambda: Workers(tokens_per_second=1, count=0),
        lambda: Workers(tokens_per_second=1, start_seconds=-1),
        lambda: Storage(kind="tape"),
        lambda: Storage(bandwidth=0),
        lambda: Storage(request_seconds=-1),
        lambda: estimate_job(offline(), workers=Workers(tokens_per_second=1), storage=Storage(), source_bytes=0),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


def test_the_command_says_what_binds_and_what_it_costs() -> None:
    many = "estimate --model t5-xl --code-bytes 4096 --workers 8 --storage bucket --price put=0.005 --price stored=0.02"
    told = CliRunner().invoke(glimmer, shlex.split(many))
    assert told.exit_code == 0, told.output
    assert "Its longest stage is write, bound by processor" in told.output
    assert re.search(r"requests cost [0-9.]+; storing costs [0-9.,]+ a month", told.output)
    as_json = CliRunner().invoke(glimmer, shlex.split("estimate --workers 8 --tokens-per-second 1000 --json"))
    found = json.loads(as_json.output)
    assert found["job"]["workers"]["count"] == 8
    assert {stage["name"]: stage["binds"] for stage in found["job"]["stages"]}["encode"] == "accelerator"
    assert {"seconds", "stages", "requests", "stored_bytes"} <= set(found["job"])


@pytest.mark.slow
def test_requests_a_shard_are_those_that_a_server_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the estimate says of a job with more shards grows as the server's log does."""
    server = MotoServer(tmp_path / "server")
    server.start()
    try:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        model = str(tiny_reader(tmp_path / "model"))
        log = server.directory / "log"
        seen: dict[int, Counter[str]] = {}
        predicted: dict[int, Counter[str]] = {}
        for articles in (1200, 4800):
            source = tiny_corpus(tmp_path / f"{articles}.jsonl", articles)
            before = log.stat().st_size
            made = encode(sources=[source], memory=f"s3://memories/{articles}", model=model)
            shards = made.plan.shards
            seen[shards] = Counter(filter(None, map(kind_of, log.read_text()[before:].splitlines())))
            requests = encode_requests(
                passages=made.plan.passages,
                source_bytes=source.stat().st_size,
                text_bytes=1e6,
                code_bytes=made.code_bytes_written,
                catalog_bytes=1e5,
            )
            predicted[shards] = Counter({kind: sum(getattr(one, kind) for one in requests) for kind in KINDS})
        few, many = sorted(seen)
        assert many > few
        for kind in ("put", "get", "head"):  # listings follow the clock
            grown = (seen[many][kind] - seen[few][kind]) / (many - few)
            expected = (predicted[many][kind] - predicted[few][kind]) / (many - few)
            assert grown == pytest.approx(expected, abs=0.25), kind
    finally:
        server.kill()


def kind_of(line: str) -> str:
    """The kind of request that a line of the server's log tells of, "" for others."""
    found = re.search(r'"(PUT|GET|HEAD) ([^ ]+) HTTP', line)
    if found is None or "list-type" in found[2]:
        return ""
    return found[1].lower()
