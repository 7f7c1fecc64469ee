"""The peer of `reader_vs_fid.py`: fusion-in-decoder with Hugging Face's T5 in PyTorch, bfloat16, in its own process.

Run by the benchmark with an interpreter that has torch and transformers. One JSON object a line on standard input:
`{"queries": [[[token, ...], ...], ...], "steps": n}` is a batch of queries, each with a row of question and passage
tokens, written together, for every candidate; the answer is `{"seconds": s, "tokens": [[...], ...]}`. Rows are encoded
as one batch padded to its longest, laid end to end, and `generate` decodes exactly n tokens greedily with its KV cache.
Whichever attention implementation transformers runs faster here is used.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from transformers.modeling_outputs import BaseModelOutput

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "goldens"))

import make_reader_goldens as goldens
import reader_weights as weights


@torch.inference_mode()
def answer(model: torch.nn.Module, queries: list[list[list[int]]], steps: int) -> list[list[int]]:
    """Every query's answer: `steps` tokens."""
    rows = [row for query in queries for row in query]
    width = max(map(len, rows))
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    states = model.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
    out = model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states.reshape(len(queries), -1, states.shape[-1])),
        attention_mask=mask.reshape(len(queries), -1),
        do_sample=False,
        min_new_tokens=steps,
        max_new_tokens=steps,
    )
    return out[:, 1:].tolist()


def main() -> None:
    """Serves queries until standard input ends."""
    torch.set_num_threads(int(sys.argv[1]))
    model = goldens.build(weights.BASE).to(torch.bfloat16)
    print(json.dumps({"ready": torch.__version__}), flush=True)
    best: str | None = None
    for line in sys.stdin:
        batch = json.loads(line)
        if best is None:
            times = {}
            for kind in ("eager", "sdpa"):
                try:
                    model.set_attn_implementation(kind)
                except ValueError:  # this release has no such implementation for T5
                    continue
                answer(model, batch["queries"][:1], 2)
                started = time.perf_counter()
                answer(model, batch["queries"][:1], batch["steps"])
                times[kind] = time.perf_counter() - started
            best = min(times, key=times.__getitem__)
            model.set_attn_implementation(best)
        started = time.perf_counter()
        tokens = answer(model, batch["queries"], batch["steps"])
        seconds = time.perf_counter() - started
        print(json.dumps({"seconds": seconds, "tokens": tokens, "attention": best}), flush=True)


if __name__ == "__main__":
    main()
