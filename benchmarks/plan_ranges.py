"""Planning in ranges: with several processes against one, and what merging the parts of a large plan takes.

    python benchmarks/plan_ranges.py workers SOURCE [--model minilm] [--workers 2] [--rounds 3] [--range-mb 8]
    python benchmarks/plan_ranges.py merge [--passages 22000000]

`workers` plans SOURCE into parts in a temporary directory, with one process and with several, in turns; starting
processes counts. `merge` makes up the parts of a plan (counts, hashes of ids, rejected records; no text), merges them,
and prints the time and the peak memory of this process. `BENCH_DIR` says where files go.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from glimmer.encoders.models import load_model
from glimmer.pipelines.corpus import Corpus
from glimmer.pipelines.corpus.rejects import Rejection
from glimmer.pipelines.engines import Engine
from glimmer.pipelines.planning.plan_parts import PartWriter
from glimmer.pipelines.planning.plan_sources import plan_sources
from glimmer.pipelines.planning.plan_stage import PlanPlace, plan_corpus
from glimmer.pipelines.planning.plan_step import RangeTask, StoredRanges, Tools
from glimmer.pipelines.planning.plan_summary import PlanCounts
from glimmer.pipelines.planning.range_plan import PlanSettings, RangePlan
from glimmer.progress import Quiet
from glimmer.storage.identity import PassageSettings
from glimmer.storage.stores import open_store

PART_PASSAGES = 110_000  # of a range of 64 MB
DRAFTS = 4  # of an article
WINDOW = 256


@contextmanager
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="plan-ranges-", dir=os.environ.get("BENCH_DIR")))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def seconds_of_plan(source: str, model_name: str, workers: int, range_bytes: int) -> tuple[float, int]:
    model = load_model(model_name)
    config = model.config
    with directory() as place:
        begun = time.perf_counter()
        planned = plan_corpus(
            Corpus([source]),
            model=model,
            passages=PassageSettings(words=100, template=config.passage_template, window=config.window),
            strict=False,
            progress=Quiet(),
            place=PlanPlace(
                store=open_store(place), job_key="job", engine=Engine(workers=workers), range_bytes=range_bytes
            ),
        )
        return time.perf_counter() - begun, planned.summary.passages


def workers(options: argparse.Namespace) -> None:
    megabytes = os.path.getsize(options.source) / 1e6
    ratios = []
    for number in range(options.rounds):
        took = {}
        for count in (1, options.workers):
            took[count], passages = seconds_of_plan(options.source, options.model, count, int(options.range_mb * 1e6))
            rate = f"{megabytes / took[count]:.2f} MB/s"
            print(
                f"round {number + 1}, {count} process(es): {took[count]:.1f} s, {rate}, {passages:,} passages",
                flush=True,
            )
        ratios.append(took[1] / took[options.workers])
    print(f"one process / {options.workers} processes: {statistics.median(ratios):.2f}")


def merge(options: argparse.Namespace) -> None:
    with directory() as place:
        store = open_store(place)
        parts = -(-options.passages // PART_PASSAGES)
        # The ranges are of a file of as many bytes; nobody reads it.
        source = place / "made-up.jsonl"
        source.write_text('{"id": "a", "text": "Text."}\n')
        corpus = Corpus([source])
        ranges = [replace(corpus.ranges(1 << 40)[0]) for _ in range(parts)]
        left, dice = options.passages, np.random.default_rng(0)
        for number, each in enumerate(ranges):
            passages = min(PART_PASSAGES, left)
            left -= passages
            articles = passages // DRAFTS
            writer = PartWriter(store, f"plan/{RangeTask(number, each).name}")
            for article in range(0, articles, 5000):
                rejection = Rejection(f"made-up.jsonl:{article}", "broken_json", "not valid JSON", "{" * 200)
                writer.reject(rejection, articles=article, late=article % 10_000 == 0)
            counts = PlanCounts.of_window(WINDOW)
            counts.articles, counts.passages, counts.rows, counts.lines = articles, passages, passages, articles
            counts.rejected = Counter(broken_json=-(-articles // 5000))
            arrays = {
                "drafts": pa.array(np.full(articles, DRAFTS, np.uint32)),
                "ids": pa.array(dice.integers(0, 1 << 63, 2 * articles, np.uint64)),
            }
            writer.finish(RangePlan(counts=counts, arrays=arrays))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        tools = Tools(settings=PlanSettings(window=WINDOW), tokenise=lambda pairs: [])
        begun = time.perf_counter()
        planned = plan_sources(
            corpus, ranges, StoredRanges(store, "plan", tools=tools), rejects_path=place / "rejected.jsonl"
        )
        took = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        assert planned.summary.passages == options.passages
        print(f"{options.passages:,} passages in {parts} parts, {planned.summary.articles:,} articles")
        print(f"merged in {took:.1f} s; peak memory {peak:,.0f} MiB, {before:,.0f} MiB of it before the merge")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("workers")
    command.add_argument("source")
    command.add_argument("--model", default="minilm")
    command.add_argument("--workers", type=int, default=2)
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--range-mb", type=float, default=8.0)
    command.set_defaults(run=workers)
    command = commands.add_parser("merge")
    command.add_argument("--passages", type=int, default=22_000_000)
    command.set_defaults(run=merge)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
