"""Writes `tiny_t5.bin`: a state dict as `torch.save` writes it, with the forms that real checkpoints hold.

Run in an environment with PyTorch:
    python tests/goldens/make_torch_golden.py
A one-layer T5 v1.1 of width 8 with drawn weights: a bfloat16 tensor, a float16 one, a transposed view, a Parameter, and
two names on one storage (`shared.weight` and `encoder.embed_tokens.weight`).
"""

from __future__ import annotations

from pathlib import Path

import torch
from random_weights import TINY_T5, draw


def main() -> None:
    state: dict[str, torch.Tensor] = {name: torch.from_numpy(draw(name, shape)) for name, shape in TINY_T5.items()}
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    query = "encoder.block.0.layer.0.SelfAttention.q.weight"
    state[query] = state[query].T.contiguous().T
    key = "encoder.block.0.layer.0.SelfAttention.k.weight"
    state[key] = torch.nn.Parameter(state[key])
    value = "encoder.block.0.layer.0.SelfAttention.v.weight"
    state[value] = state[value].to(torch.bfloat16)
    state["lm_head.weight"] = state["lm_head.weight"].to(torch.float16)
    torch.save(state, Path(__file__).parent / "tiny_t5.bin")


if __name__ == "__main__":
    main()
