"""Memory encoder against Hugging Face transformers in PyTorch: real tokens per second, same weights, layers and ids.

    python benchmarks/encoder_vs_torch.py --torch-python BENCH_ENV/bin/python [--source FILE] [--passages N]

Both sides compute in bfloat16 on all cores and get the same token ids of real passages (KILT knowledge source, JSONL
with title and text, or plain text, a passage a line). PyTorch gets length-sorted batches padded to their longest, at
the best of several batch sizes. Each side is one process with its own interpreter; rounds alternate, and the ratio is
that of the best rounds. `--torch-python` is an interpreter with torch and transformers, which Glimmer itself never
needs. Models: the lower 4 layers of MiniLM (its real weights) and the lower 8 of T5 v1.1 base (random weights).
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY.parent / "shared" / "data"
T5_BASE = {"d_model": 768, "d_ff": 2048, "num_heads": 12, "d_kv": 64, "num_layers": 12, "vocab_size": 32128}
KEPT = {"minilm": 4, "t5-base": 8}
TORCH_BATCHES = (8, 16, 32)
COMPARED = 16


def read_passages(source: Path, count: int, words: int = 100) -> Iterator[tuple[str, str]]:
    """(title, text) pairs of about `words` words from the first articles of `source`."""
    opener: Callable[..., Any] = gzip.open if source.suffix == ".gz" else open
    with opener(source, "rt", encoding="utf-8") as lines:
        for line in lines:
            title, text = "", line
            if line.startswith("{"):
                record = json.loads(line)
                title = record.get("wikipedia_title") or record.get("title") or ""
                text = record["text"] if isinstance(record["text"], str) else " ".join(record["text"][1:])
            tokens = text.split()
            for start in range(0, len(tokens), words):
                yield title, " ".join(tokens[start : start + words])
                count -= 1
                if not count:
                    return


def write_t5_base(directory: Path, spiece: Path) -> None:
    """A Hugging Face directory of T5 v1.1 base's encoder with random weights of the usual scale."""
    from glimmer.encoders.weights import in_memory, write_safetensors

    generator = np.random.default_rng(0)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return generator.standard_normal(shape, np.float32) * np.float32(scale)

    width, hidden, inner = T5_BASE["d_model"], T5_BASE["d_ff"], T5_BASE["num_heads"] * T5_BASE["d_kv"]
    state = {
        "shared.weight": normal(T5_BASE["vocab_size"], width),
        "encoder.final_layer_norm.weight": np.ones(width, np.float32),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": normal(32, T5_BASE["num_heads"]),
    }
    for number in range(T5_BASE["num_layers"]):
        block = f"encoder.block.{number}.layer"
        for part in "qkvo":
            scale = (width * T5_BASE["d_kv"]) ** -0.5 if part == "q" else width**-0.5
            shape = (width, inner) if part == "o" else (inner, width)
            state[f"{block}.0.SelfAttention.{part}.weight"] = normal(*shape, scale=scale)
        for place in (0, 1):
            state[f"{block}.{place}.layer_norm.weight"] = np.ones(width, np.float32)
        for part in ("wi_0", "wi_1"):
            state[f"{block}.1.DenseReluDense.{part}.weight"] = normal(hidden, width, scale=width**-0.5)
        state[f"{block}.1.DenseReluDense.wo.weight"] = normal(width, hidden, scale=hidden**-0.5)
    directory.mkdir()
    config = {"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} | T5_BASE
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "spiece.model").write_bytes(spiece.read_bytes())
    write_safetensors(directory / "model.safetensors", in_memory(state))


def prepare(name: str, work: Path, pairs: list[tuple[str, str]], spiece: Path) -> bool:
    """Writes what both sides read: a Hugging Face directory, a Glimmer model and the token ids."""
    import zipfile

    from glimmer.encoders.builtin_models import find_minilm
    from glimmer.encoders.models import load_model
    from glimmer.pipelines.convert import convert

    theirs = work / f"{name}-hf"
    if name == "minilm":
        with zipfile.ZipFile(find_minilm()) as archive:
            archive.extractall(theirs)
    elif spiece.is_file():
        write_t5_base(theirs, spiece)
    else:
        print(f"{name}: left out, no T5 vocabulary at {spiece}; give --spiece")
        return False
    convert(source=theirs, output=work / name, live_proportion="1/3", rerank_proportion="1/2")
    tokens = [ids[:256] for ids in load_model(work / name).passage_tokens(pairs)]
    np.savez(work / f"{name}-tokens.npz", ids=np.concatenate(tokens), lengths=[len(ids) for ids in tokens])
    return True


def read_tokens(name: str, work: Path) -> list[np.ndarray]:
    stored = np.load(work / f"{name}-tokens.npz")
    return np.split(stored["ids"], np.cumsum(stored["lengths"])[:-1])


def glimmer_side(name: str, work: Path) -> Callable[[], dict[int, np.ndarray]]:
    """A function that encodes all passages once."""
    from glimmer.encoders.compilation import enable_compilation_cache
    from glimmer.encoders.memory_encoder import MemoryEncoder
    from glimmer.encoders.models import load_model

    enable_compilation_cache()
    encoder, tokens = MemoryEncoder(load_model(work / name)), read_tokens(name, work)

    def once() -> dict[int, np.ndarray]:
        found = {}
        for batch in encoder.encode(tokens):
            for index, output in zip(batch.indices, batch.outputs, strict=True):
                if index < COMPARED:
                    found[int(index)] = output[: len(tokens[index])].astype(np.float32)
        return found

    return once


def torch_side(name: str, work: Path) -> Callable[[], dict[int, np.ndarray]]:
    """The same by transformers: lower layers only, bfloat16, length-sorted batches of the best size."""
    import torch
    from transformers import BertModel, T5EncoderModel

    directory, tokens = str(work / f"{name}-hf"), read_tokens(name, work)
    if name == "minilm":
        model = BertModel.from_pretrained(directory, add_pooling_layer=False, dtype=torch.bfloat16)
        model.encoder.layer = model.encoder.layer[: KEPT[name]]
    else:
        model = T5EncoderModel.from_pretrained(directory, dtype=torch.bfloat16)
        model.encoder.block = model.encoder.block[: KEPT[name]]
        model.encoder.final_layer_norm = torch.nn.Identity()
    model.eval()
    order = sorted(range(len(tokens)), key=lambda number: len(tokens[number]))

    def once(batch: int, order: list[int] = order) -> dict[int, np.ndarray]:
        found = {}
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                members = order[start : start + batch]
                longest = max(len(tokens[number]) for number in members)
                ids = torch.zeros((len(members), longest), dtype=torch.long)
                mask = torch.zeros((len(members), longest), dtype=torch.long)
                for row, number in enumerate(members):
                    ids[row, : len(tokens[number])] = torch.from_numpy(tokens[number].astype(np.int64))
                    mask[row, : len(tokens[number])] = 1
                hidden = model(ids, attention_mask=mask).last_hidden_state
                for row, number in enumerate(members):
                    if number < COMPARED:
                        found[number] = hidden[row, : len(tokens[number])].float().numpy()
        return found

    timings = {}
    for batch in TORCH_BATCHES:
        once(batch, order[::8])
        started = time.perf_counter()
        once(batch, order[::4])
        timings[batch] = time.perf_counter() - started
    best = min(timings, key=lambda batch: timings[batch])
    print(json.dumps({"note": f"best of batch sizes {TORCH_BATCHES}: {best}"}), flush=True)
    return lambda: once(best)


def serve(side: str, name: str, work: Path) -> None:
    """One side's process: a round for every line of standard input, its seconds on standard output."""
    once = {"glimmer": glimmer_side, "torch": torch_side}[side](name, work)
    outputs = once()
    named: dict[str, Any] = {str(number): output for number, output in outputs.items()}
    np.savez(work / f"{name}-{side}.npz", **named)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        once()
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


class Side:
    """A running side."""

    def __init__(self, side: str, python: str, name: str, work: Path) -> None:
        command = [python, str(Path(__file__).resolve()), "--side", side, "--model", name, "--work", str(work)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.note = ""
        while not (message := self._read()).get("ready"):
            self.note = message.get("note", self.note)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                message: dict[str, Any] = json.loads(line)
                return message
        raise SystemExit(f"a side ended early with status {self.process.wait()}: {self.process.args!r}")

    def round(self) -> float:
        """Seconds of one pass over all passages."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return float(self._read()["seconds"])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(name: str, work: Path, torch_python: str, rounds: int) -> None:
    """Alternates rounds of both sides and prints a line."""
    tokens = sum(len(ids) for ids in read_tokens(name, work))
    sides = {"torch": Side("torch", torch_python, name, work), "glimmer": Side("glimmer", sys.executable, name, work)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    try:
        for _ in range(rounds):
            for side, running in sides.items():
                seconds[side].append(running.round())
    finally:
        for running in sides.values():
            running.close()
    theirs, ours = np.load(work / f"{name}-torch.npz"), np.load(work / f"{name}-glimmer.npz")
    difference = max(np.linalg.norm(ours[key] - theirs[key]) / np.linalg.norm(theirs[key]) for key in theirs.files)
    best = {side: tokens / min(times) for side, times in seconds.items()}
    pairwise = sorted(t / g for t, g in zip(seconds["torch"], seconds["glimmer"], strict=True))
    print(
        f"{name}, lower {KEPT[name]} layers, {tokens:,} real tokens: glimmer {best['glimmer']:,.0f} tokens/s, "
        f"PyTorch {best['torch']:,.0f} tokens/s ({sides['torch'].note}), ratio {best['glimmer'] / best['torch']:.2f} "
        f"(rounds {pairwise[0]:.2f} to {pairwise[-1]:.2f}); outputs differ by {difference:.1%} (bfloat16)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="interpreter with torch and transformers")
    parser.add_argument("--source", type=Path, default=DATA / "wiki_small" / "knowledgesource.jsonl.gz")
    parser.add_argument("--spiece", type=Path, default=DATA / "t5" / "spiece.model")
    parser.add_argument("--passages", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default="minilm,t5-base")
    parser.add_argument("--side", choices=("glimmer", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(arguments.side, arguments.model, arguments.work)
        return
    if not arguments.torch_python:
        parser.error("--torch-python is needed: an interpreter with torch and transformers (a bench environment)")
    if not arguments.source.is_file():
        parser.error(f"no passages at {arguments.source}; give --source FILE")
    pairs = list(read_passages(arguments.source, arguments.passages))
    with tempfile.TemporaryDirectory(prefix="glimmer-bench-") as scratch:
        for name in arguments.models.split(","):
            if prepare(name, Path(scratch), pairs, arguments.spiece):
                compare(name, Path(scratch), arguments.torch_python, arguments.rounds)


if __name__ == "__main__":
    main()
