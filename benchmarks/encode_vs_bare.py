"""Whole `glimmer encode` against the bare encoder loop over the same passages: what the job costs beside the model.

The bare side runs the memory encoder with the codec over all passages, tokenised and compiled before the clock starts,
and drops the results. The whole side is the command as a user runs it, from process start to committed memory: imports,
planning, tokenising, compression, writing, the commit. Rounds alternate; the ratio bare / whole is 1 when the job costs
nothing but the encoder.

    python benchmarks/encode_vs_bare.py SOURCE [--model minilm] [--codec int8] [--rounds 2]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from glimmer.encoders.compilation import enable_compilation_cache
from glimmer.encoders.memory_encoder import MemoryEncoder
from glimmer.encoders.models import load_model
from glimmer.storage.codecs import make_codec
from glimmer.storage.memory import Memory


def encode_whole(source: str, memory: Path, model: str, codec: str) -> float:
    """Seconds the command takes, start-up included."""
    code = "from glimmer.pipelines.cli.program import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "encode",
        source,
        "--memory",
        str(memory),
        "--model",
        model,
        "--codec",
        codec,
    ]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--codec", default="int8")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="glimmer-bench-"))
    try:
        enable_compilation_cache()
        encode_whole(options.source, scratch / "warm", options.model, options.codec)  # fills caches, gives passages
        memory = Memory.open(scratch / "warm")
        tokens = [passage.tokens for _, passages in memory.scan_texts() for passage in passages]
        model = load_model(options.model)
        codec = make_codec(options.codec, model.config.encoder.d_model)
        encoder = MemoryEncoder(model, shapes=memory.identity.shapes, transform=codec.encode)
        for _ in encoder.encode(tokens[:2048]):  # compile what most passages need
            pass
        ratios = []
        for number in range(options.rounds):
            begun = time.perf_counter()
            for _ in encoder.encode(tokens):
                pass
            bare = time.perf_counter() - begun
            whole = encode_whole(options.source, scratch / f"round-{number}", options.model, options.codec)
            shutil.rmtree(scratch / f"round-{number}")
            ratios.append(bare / whole)
            print(f"round {number + 1}: bare {bare:.1f} s, whole {whole:.1f} s, ratio {ratios[-1]:.3f}", flush=True)
        print(f"bare loop / whole glimmer encode: {statistics.median(ratios):.3f}  ({len(tokens):,} passages)")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
