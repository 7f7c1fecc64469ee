"""Whole `glimmer encode` with codecs that have tables, against `int8`: what such a codec costs the job.

Each codec's tables are fitted once, or taken from the memories of `--tables`; then jobs with each codec take turns with
jobs of `int8`, as a user runs them, and the tables are given. Ratios are medians of a codec's time over that of the
`int8` job of its round. Processor time says more where other work fills the processors.

    python benchmarks/codec_job.py SOURCE [--model sample] [--codec pq:bytes=48] [--tables MEMORY] [--rounds 3]
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """Seconds of one command, start-up included."""

    wall: float
    processor: float


def encode(source: str, memory: Path, model: str, *options: str) -> Cost:
    """Runs the command into a new memory."""
    code = "from glimmer.pipelines.cli.program import main; main()"
    command = [sys.executable, "-c", code, "encode", source, "--memory", str(memory), "--model", model, *options]
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--model", default="sample")
    parser.add_argument("--codec", action="append", default=[], help="Fit tables of this codec (may be repeated).")
    parser.add_argument("--tables", action="append", default=[], help="Or take a memory's (may be repeated).")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="glimmer-bench-"))
    try:
        tables = list(options.tables)
        for number, codec in enumerate(options.codec or ([] if tables else ["pq:bytes=48", "pq:bytes=24"])):
            cost = encode(options.source, scratch / f"tables-{number}", options.model, "--codec", codec)
            print(f"{codec} with the fit: {cost.wall:.1f} s, {cost.processor:.1f} s of processors", flush=True)
            tables.append(str(scratch / f"tables-{number}"))
        ratios: dict[str, list[Cost]] = {name: [] for name in tables}
        for number in range(options.rounds + 1):
            plain = encode(options.source, scratch / "m", options.model, "--codec", "int8")
            shutil.rmtree(scratch / "m")
            for name, found in ratios.items():
                cost = encode(options.source, scratch / "m", options.model, "--codec-tables", name)
                shutil.rmtree(scratch / "m")
                if number:  # the first round fills the cache of compiled programs
                    found.append(Cost(cost.wall / plain.wall, cost.processor / plain.processor))
                    print(f"round {number}: int8 {plain}, {name} {cost}", flush=True)
        for name, found in ratios.items():
            wall, processor = (statistics.median(each) for each in zip(*found, strict=True))
            print(f"{name} over int8: {wall:.3f} of the time, {processor:.3f} of the processor time")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
