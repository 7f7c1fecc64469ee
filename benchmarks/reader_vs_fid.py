"""Queries per second: GLIMMER against fusion-in-decoder in this model, and that against FiD in PyTorch.

    python benchmarks/reader_vs_fid.py --knowledge-source K.jsonl.gz --questions Q.jsonl --tokenizer spiece.model \
        [--torch-python PYTHON]

Same random T5 1.1 base weights everywhere, real passages and questions, a fixed number of greedily decoded tokens
(random weights never stop by themselves), `--batch` queries at a time. GLIMMER gets its memory as stored bfloat16
codes, uploaded and decoded inside its time; FiD starts from tokens. Rounds alternate, so that whatever else the machine
does falls on all alike; the figures are medians over batches and their ratios.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from glimmer.encoders.families.encoder_family import TokenizerSpec
from glimmer.encoders.families.family_registry import load_tokenizer
from glimmer.encoders.families.t5 import T5Config
from glimmer.reader.config import DecoderConfig, ReaderConfig
from glimmer.reader.generation import GenerationConfig
from glimmer.reader.live_encoder import Lengths
from glimmer.reader.model import Params, Reader, Stages
from glimmer.storage.codecs import make_codec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "goldens"))

import reader_weights as weights

WORDS = 100


@dataclass(frozen=True)
class Batch:
    """Questions and their candidates, padded: what all models start from."""

    question: np.ndarray  # int32 [B,Sq]
    passages: np.ndarray  # int32 [B,m,L]
    lengths: Lengths

    def rows(self) -> list[list[list[int]]]:
        """For each query question and passage written together, one row a candidate, without padding."""
        queries = []
        for question, passages, asked, told in zip(self.question, self.passages, *self.lengths, strict=True):
            head = question[: int(asked)].tolist()
            queries.append([head + row[:size].tolist() for row, size in zip(passages, told.tolist(), strict=True)])
        return queries


def pieces(path: Path) -> Iterator[tuple[str, str]]:
    """(title, text) of every piece of about 100 words (50 at least) of a KILT knowledge source's articles."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for line in lines:
            article = json.loads(line)
            words = " ".join(text for text in article["text"][1:] if "::::" not in text).split()
            for start in range(0, len(words), WORDS):
                if len(words) - start >= WORDS // 2:
                    yield article["wikipedia_title"], " ".join(words[start : start + WORDS])


def load_batches(args: argparse.Namespace) -> list[Batch]:
    """The first `--batches` x `--batch` questions, each with `--candidates` passages of its own, drawn at random."""
    path = Path(args.tokenizer)
    tokenizer = load_tokenizer(path.parent, TokenizerSpec(kind="sentencepiece", file=path.name))
    texts = list(pieces(Path(args.knowledge_source)))
    with Path(args.questions).open(encoding="utf-8") as lines:
        questions = [
            json.loads(line)["input"] for line, _ in zip(lines, range(args.batches * args.batch), strict=False)
        ]
    rng = np.random.default_rng(0)
    drawn = [[texts[i] for i in rng.choice(len(texts), args.candidates, replace=False)] for _ in questions]
    asked = tokenizer.encode([f"question: {question}" for question in questions])
    told = [tokenizer.encode([f"title: {title} context: {text}" for title, text in some]) for some in drawn]
    question_width = -(-max(map(len, asked)) // 8) * 8
    passage_width = min(args.window, -(-max(len(ids) for some in told for ids in some) // 8) * 8)
    question = np.zeros((len(asked), question_width), np.int32)
    passages = np.zeros((len(asked), args.candidates, passage_width), np.int32)
    sizes = np.array([[min(len(ids), passage_width) for ids in some] for some in told], np.int32)
    for row, (ask, some) in enumerate(zip(asked, told, strict=True)):
        question[row, : len(ask)] = ask
        for number, ids in enumerate(some):
            passages[row, number, : sizes[row, number]] = ids[:passage_width]
    lengths = np.array([len(ask) for ask in asked], np.int32)
    return [
        Batch(question[part], passages[part], Lengths(lengths[part], sizes[part]))  # type: ignore[arg-type]
        for part in (slice(start, start + args.batch) for start in range(0, len(asked), args.batch))
    ]


def reader_config(memory: int, live_a: int, live_b: int) -> ReaderConfig:
    """T5 1.1 base with its encoder layers shared out."""
    shape = weights.BASE
    sizes: dict[str, Any] = {
        "vocab_size": weights.VOCABULARY,
        "d_model": shape.d_model,
        "d_ff": shape.d_ff,
        "num_heads": shape.heads,
        "d_kv": shape.d_kv,
        "num_layers": shape.layers,
        "gated": True,
        "layer_norm_eps": 1e-6,
        "relative_buckets": 32,
        "relative_max_distance": 128,
    }
    return ReaderConfig(
        encoder=T5Config(**sizes),
        decoder=DecoderConfig(kv_heads=shape.heads, **sizes),
        memory_layers=memory,
        live_a_layers=live_a,
        live_b_layers=live_b,
    )


class Glimmer:
    """This model over stored memory: 8 memory layers, 1 before re-ranking, 3 after it."""

    def __init__(self, tensors: dict[str, np.ndarray], batches: list[Batch], select: int, steps: int) -> None:
        self.reader = Reader(reader_config(8, 1, 3))
        scores = {name: value for name, value in self.reader.tensors(self.reader.init(0)).items() if "reranker" in name}
        self.params = self.reader.params(tensors | scores)
        codec = make_codec("bfloat16", weights.BASE.d_model)
        self.stages = Stages(self.reader, GenerationConfig.fixed_steps(steps), select=select, decode=codec.decode)
        encode = jax.jit(lambda params, *passages: codec.encode(self.reader.memory(params, *passages), passages[0]))
        self.codes = [np.asarray(encode(self.params, q.passages, q.lengths.passages)) for q in batches]

    def __call__(self, number: int, batch: Batch, times: dict[str, float] | None = None) -> list[list[int]]:
        """A batch's answers; `times` collects seconds by stage (and then every stage is waited for)."""
        stages, params, width = self.stages, self.params, batch.question.shape[1]
        clock = Clock(times)
        question = clock("question", stages.question(params, batch.question, batch.lengths.question))
        found = clock("live A", stages.live_a(params, question, self.codes[number], batch.lengths))
        chosen = clock("select", stages.select(found, batch.lengths, None))
        fused = clock("live B", stages.live_b(params, found.hidden, batch.lengths, chosen, question_width=width))
        out = clock("decode", stages.answer(params, fused, None))
        return np.asarray(out.tokens[:, 0]).tolist()


class Fid:
    """This model with every encoder layer live, over all candidates."""

    def __init__(self, tensors: dict[str, np.ndarray], steps: int) -> None:
        self.reader = Reader(reader_config(0, 0, weights.BASE.layers))
        self.params: Params = self.reader.params(tensors)
        self.stages = Stages(self.reader, GenerationConfig.fixed_steps(steps), select=1)

    def __call__(self, number: int, batch: Batch, times: dict[str, float] | None = None) -> list[list[int]]:
        """A batch's answers; `times` as for Glimmer."""
        stages, params, width = self.stages, self.params, batch.question.shape[1]
        clock = Clock(times)
        question = clock("question", stages.question(params, batch.question, batch.lengths.question))
        memory = clock("embed", stages.memory(params, batch.passages, batch.lengths.passages))
        found = clock("join", stages.live_a(params, question, memory, batch.lengths))
        fused = clock("encode", stages.live_b(params, found.hidden, batch.lengths, None, question_width=width))
        out = clock("decode", stages.answer(params, fused, None))
        return np.asarray(out.tokens[:, 0]).tolist()


class Clock:
    """Adds up seconds by stage, waiting for each; without a table it lets everything run on."""

    def __init__(self, times: dict[str, float] | None) -> None:
        self.times, self.started = times, time.perf_counter()

    def __call__(self, stage: str, result: Any) -> Any:
        if self.times is not None:
            jax.block_until_ready(result)
            now = time.perf_counter()
            self.times[stage] = self.times.get(stage, 0.0) + now - self.started
            self.started = now
        return result


class TorchFid:
    """FiD in PyTorch, in its own process, idle between queries."""

    def __init__(self, python: str, threads: int, steps: int) -> None:
        self.steps = steps
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("torch_fid.py")), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.attention = ""
        self._read()

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise RuntimeError("the PyTorch process has no pipes")
        return pipe

    def _read(self) -> dict[str, Any]:
        line = self._pipe(self.process.stdout).readline()
        if not line:
            raise RuntimeError("the PyTorch process died; its message is above")
        return dict(json.loads(line))

    def seconds(self, batch: Batch) -> tuple[float, list[list[int]]]:
        """Seconds of one batch's answers, as that process measures them, and their tokens."""
        pipe = self._pipe(self.process.stdin)
        print(json.dumps({"queries": batch.rows(), "steps": self.steps}), file=pipe, flush=True)
        reply = self._read()
        self.attention = reply["attention"]
        return reply["seconds"], reply["tokens"]

    def close(self) -> None:
        """Ends the process."""
        self._pipe(self.process.stdin).close()
        self.process.wait(timeout=30)


def timed(call: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    """Seconds and result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--knowledge-source", required=True, help="KILT knowledge source (.jsonl or .jsonl.gz)")
    parser.add_argument("--questions", required=True, help="KILT questions (.jsonl)")
    parser.add_argument("--tokenizer", required=True, help="T5's spiece.model")
    parser.add_argument(
        "--torch-python", help="interpreter with torch and transformers; without it that part is left out"
    )
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--select", type=int, default=10)
    parser.add_argument("--steps", type=int, default=16, help="decoded tokens")
    parser.add_argument("--window", type=int, default=256, help="most tokens of a passage")
    parser.add_argument("--batch", type=int, default=4, help="queries at a time, for all alike")
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's; XLA takes the machine's cores")
    args = parser.parse_args()

    batches = load_batches(args)
    sizes = np.concatenate([np.asarray(batch.lengths.passages).ravel() for batch in batches])
    print(
        f"{args.batches} x {args.batch} queries x {args.candidates} passages of {sizes.mean():.0f} tokens on average, "
        f"{batches[0].passages.shape[2]} wide; questions {batches[0].question.shape[1]} wide; {args.steps} tokens "
        "decoded"
    )
    tensors = weights.random_tensors(weights.BASE)
    systems: dict[str, Any] = {
        "glimmer": Glimmer(tensors, batches, args.select, args.steps),
        "fid": Fid(tensors, args.steps),
    }
    del tensors
    peer = TorchFid(args.torch_python, args.threads, args.steps) if args.torch_python else None
    seconds: dict[str, list[float]] = {name: [] for name in (*systems, *(["torch"] if peer else []))}
    answers: dict[str, list[list[int]]] = {}
    for turn in range(args.rounds + 1):  # the first compiles and is not counted
        for name in seconds:
            for number, batch in enumerate(batches):
                if name == "torch" and peer is not None:
                    spent, answers[name] = peer.seconds(batch)
                else:
                    system = systems[name]
                    spent, answers[name] = timed(lambda n=number, q=batch, s=system: s(n, q))  # type: ignore[misc]
                if turn:
                    seconds[name].append(spent)
    if peer is not None:
        peer.close()

    medians = {name: statistics.median(values) / args.batch for name, values in seconds.items()}
    for name, median in medians.items():
        fastest = min(seconds[name]) / args.batch
        print(f"{name:8} {1 / median:6.2f} queries/s   {median:6.3f} s a query   (fastest {fastest:.3f})")
    for name, system in systems.items():
        times: dict[str, float] = {}
        for number, batch in enumerate(batches):
            system(number, batch, times)
        print(
            f"{name:8} "
            + "  ".join(f"{stage} {spent / len(batches) / args.batch:.3f} s" for stage, spent in times.items())
        )
    print(f"GLIMMER / FiD, this model: {medians['fid'] / medians['glimmer']:.2f} x the queries/s (aim: 4)")
    if peer is not None:
        same = np.mean(np.array(answers["fid"]) == np.array(answers["torch"]))
        print(f"FiD, this model / PyTorch ({peer.attention}): {medians['torch'] / medians['fid']:.2f} x (aim: 1)")
        print(f"of the last batch's tokens {same:.0%} agree (random weights, bfloat16 on both sides)")


if __name__ == "__main__":
    main()
