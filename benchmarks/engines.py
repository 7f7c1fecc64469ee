"""Whole encode jobs on one machine: in one process, in two processes, by two Dask workers; the same bytes each time.

Prints the passages a second of the encode stage, which includes the start of worker processes and the loading of
weights in each, and the ratio to one process. A corpus of four groups of shards (16,384 passages) or more shows the
steady state, one of a few articles what an engine costs to start. Rounds alternate, so that other work on the machine
strikes all engines.

    python benchmarks/engines.py SOURCE [--model minilm] [--workers 2] [--rounds 2]
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from glimmer.pipelines.encode import encode
from glimmer.pipelines.engines import Engine


def main() -> None:
    from distributed import LocalCluster

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="glimmer-bench-"))
    rates: dict[str, list[float]] = defaultdict(list)
    cluster = LocalCluster(
        n_workers=options.workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    )
    try:
        engines = {
            "one process": Engine(),
            f"{options.workers} processes": Engine(workers=options.workers),
            f"{options.workers} Dask workers": Engine(runner="dask", cluster=cluster.scheduler_address),
        }
        encode(sources=[options.source], memory=scratch / "warm", model=options.model)  # fills the caches
        for number in range(options.rounds):
            for name, engine in engines.items():
                memory = scratch / f"{number}"
                result = encode(sources=[options.source], memory=memory, model=options.model, engine=engine)
                shutil.rmtree(memory)
                rate = result.plan.passages / result.seconds["encode"]
                rates[name].append(rate)
                seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in result.seconds.items())
                print(f"{name:16} {rate:8.1f} passages/s  ({seconds}; load {os.getloadavg()[0]:.1f})", flush=True)
        alone = statistics.median(rates["one process"])
        for name, found in rates.items():
            print(f"{name:16} {statistics.median(found) / alone:.2f} x one process")
    finally:
        cluster.close()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
