"""Hashing a source for its content identity against planning it: what knowing a job by its content costs.

The source is read once before the clock starts, so both sides find it in the page cache. Planning is what `glimmer
encode` does before it encodes: reading, cutting into passages, tokenising. Rounds alternate.

    python benchmarks/source_identity.py SOURCE [--model minilm] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

from glimmer.encoders.models import load_model
from glimmer.pipelines.corpus import Corpus
from glimmer.pipelines.planning.plan_sources import plan_sources
from glimmer.pipelines.planning.plan_step import HeldRanges, Tools
from glimmer.pipelines.planning.range_plan import PlanSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = load_model(options.model)
    tools = Tools(settings=PlanSettings(window=model.config.window), tokenise=model.passage_tokens)
    Corpus([options.source]).identity()
    ratios = []
    for number in range(options.rounds):
        begun = time.perf_counter()
        corpus = Corpus([options.source])
        corpus.identity()
        hashing = time.perf_counter() - begun
        begun = time.perf_counter()
        plan_sources(corpus, corpus.ranges(1 << 62), HeldRanges(tools))
        planning = time.perf_counter() - begun
        ratios.append(hashing / planning)
        rates = [corpus.bytes / 1e6 / seconds for seconds in (hashing, planning)]
        print(f"round {number + 1}: hashing {rates[0]:,.0f} MB/s, planning {rates[1]:,.1f} MB/s", flush=True)
    print(f"hashing / planning: {statistics.median(ratios):.4f}")


if __name__ == "__main__":
    main()
