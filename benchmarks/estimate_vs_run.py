"""What `glimmer estimate` says of a job against what the job takes: rates from a small corpus, tried on a larger one.

Encodes the first articles of SOURCE at two sizes, as the command line does, and takes rates from the difference: source
bytes planned and tokens encoded in a second, and seconds to start. With these rates it predicts the job over ARTICLES
articles in one process and in several, runs it, and prints predicted and real seconds; all runs alternate, and medians
count. Processes share this machine's processor: each encodes its share of the tokens. Run it where nothing else runs.

    python benchmarks/estimate_vs_run.py SOURCE [--articles 4000] [--model sample] [--workers 1 2] [--rounds 3]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

from glimmer.encoders.model_config import ModelConfig
from glimmer.encoders.models import load_model
from glimmer.pipelines.capacity.estimate import Offline
from glimmer.pipelines.capacity.job_hours import Storage, Workers, estimate_job
from glimmer.storage.codecs import code_bytes, parse_codec
from glimmer.storage.inputs import decompressed_blocks

_RUN = """
import json, sys, time
begun = time.perf_counter()
import glimmer
from glimmer.progress import Quiet
class Clock(Quiet):
    stages = []
    def stage(self, name, *, total, unit, start=0.0):
        self.stages.append((name, time.perf_counter() - begun))
    def done(self):
        self.stages.append(("", time.perf_counter() - begun))
source, memory, model, codec, workers = sys.argv[1:]
made = glimmer.encode(sources=[source], memory=memory, model=model, codec=codec, progress=Clock(),
                      engine=glimmer.Engine(workers=int(workers)))
plan = made.plan
print(json.dumps({"stages": Clock.stages, "end": time.perf_counter() - begun, "passages": plan.passages,
                  "tokens": plan.tokens}))
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One job, as it was: seconds of the whole process and of its stages, and what it made."""

    bytes: int
    passages: int
    tokens: int
    whole: float
    plan: float
    encode: float
    rest: float


def run(source: Path, memory: Path, model: str, codec: str, workers: int) -> Run:
    """A job in a process of its own, in which nothing is warm but the caches on disk."""
    command = [sys.executable, "-c", _RUN, str(source), str(memory), model, codec, str(workers)]
    begun = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    whole = time.perf_counter() - begun
    told = json.loads(done.stdout.splitlines()[-1])
    marks = [*told["stages"], ("", told["end"])]
    seconds: dict[str, float] = {}
    for (name, at), (_, until) in itertools.pairwise(marks):
        seconds[name] = seconds.get(name, 0.0) + until - at
    plan, encode = seconds.get("plan", 0.0), seconds.get("encode", 0.0)
    return Run(
        bytes=source.stat().st_size,
        passages=told["passages"],
        tokens=told["tokens"],
        whole=whole,
        plan=plan,
        encode=encode,
        rest=whole - plan - encode,
    )


def median_run(runs: list[Run]) -> Run:
    """Runs of one job as one, each figure the median."""
    return Run(**{field.name: statistics.median(getattr(run, field.name) for run in runs) for field in fields(Run)})


def head(source: Path, articles: int, to: Path) -> Path:
    """The first lines of a source, decompressed."""
    lines: list[bytes] = []
    with open(source, "rb") as raw:
        held = b""
        for block in decompressed_blocks(raw):
            held += block
            if held.count(b"\n") > articles:
                break
        lines = held.split(b"\n")[:articles]
    to.write_bytes(b"\n".join(lines) + b"\n")
    return to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--articles", type=int, default=4000)
    parser.add_argument("--model", default="sample")
    parser.add_argument("--codec", default="int8")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    config: ModelConfig = load_model(options.model).config
    token = code_bytes(parse_codec(options.codec, config.encoder.d_model))
    with tempfile.TemporaryDirectory(prefix="glimmer-bench-") as scratch:
        at = Path(scratch)
        large = head(options.source, options.articles, at / "large.jsonl")
        sizes = (options.articles // 16, options.articles // 2)
        small = [head(options.source, size, at / f"{size}.jsonl") for size in sizes]
        for workers in options.workers:
            run(small[0], at / f"warm-{workers}", options.model, options.codec, workers)  # fills the caches
            runs: list[list[Run]] = [[], [], []]
            for turn in range(options.rounds):
                for number, source in enumerate((*small, large)):
                    memory = at / f"{number}-{workers}-{turn}"
                    runs[number].append(run(source, memory, options.model, options.codec, workers))
            low, high, real = map(median_run, runs)
            tokens_a_second = (high.tokens - low.tokens) / max(1e-9, high.encode - low.encode)
            per_byte = max(1e-9, (high.plan - low.plan) / (high.bytes - low.bytes))
            start = max(0.0, low.whole - low.tokens / tokens_a_second - low.bytes * per_byte)
            passages = high.passages * real.bytes / high.bytes
            tokens = high.tokens * real.bytes / high.bytes
            offline = Offline(
                passages=round(passages),
                tokens=tokens,
                flops=0.0,
                formula_flops=0.0,
                hours=0.0,
                code_bytes=tokens * token,
                text_bytes=passages * 1_250,
                catalog_bytes=passages * 52,
            )
            job = estimate_job(
                offline,
                workers=Workers(
                    count=workers,
                    cores=1,
                    tokens_per_second=tokens_a_second / workers,
                    planning_rate=1 / per_byte / workers,
                    passages_per_second=float("inf"),  # their time is in that of tokens here
                    start_seconds=start,
                ),
                storage=Storage(bandwidth=float("inf")),  # what is written stays in the system's cache
                source_bytes=real.bytes,
            )
            stages = {stage.name: stage.seconds for stage in job.stages}
            print(
                f"{workers} processes: predicted {job.seconds:.1f} s (plan {stages['plan']:.1f}, "
                f"encode {stages['encode']:.1f}, start {start:.1f}), real {real.whole:.1f} s (plan {real.plan:.1f}, "
                f"encode {real.encode:.1f}, rest {real.rest:.1f}); predicted / real {job.seconds / real.whole:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
