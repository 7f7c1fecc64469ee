"""Seeded random weights and inputs of a T5 1.1 fusion-in-decoder model, the same for goldens and tests.

Numpy only: `make_reader_goldens.py` runs where PyTorch is, the tests where JAX is. Every tensor has its own stream,
seeded by its name, so neither order nor omission changes a value. Scales are chosen so that decoding is lively (every
step another token, the end of the answer within reach of some beams) and no choice is a close call.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

VOCABULARY, EOS = 32128, 1


@dataclass(frozen=True)
class Shape:
    """A T5 1.1 size; encoder and decoder have `layers` each."""

    name: str
    d_model: int
    d_ff: int
    heads: int
    layers: int
    d_kv: int = 64
    seed: int = 0
    end_scale: float = 3.2  # of the end's column of the head: or one of 32,128 tokens would never come up


SMALL = Shape(name="small", d_model=512, d_ff=1024, heads=6, layers=8, seed=11)
BASE = Shape(name="base", d_model=768, d_ff=2048, heads=12, layers=12, seed=14, end_scale=4.2)

# (beams, length_penalty, early_stopping): what both sides decode
SEARCHES: tuple[tuple[int, float, bool | str], ...] = (
    (2, 1.0, False),
    (2, 0.5, True),
    (4, 1.0, False),
    (4, 1.0, True),
    (4, 2.0, "never"),
    (4, -0.5, False),
)
MAX_NEW_TOKENS = 20


def tensor_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Every tensor's dotted name, as the reader names it, and its shape (kernels are [in, out])."""
    d, inner = shape.d_model, shape.heads * shape.d_kv
    shapes: dict[str, tuple[int, ...]] = {"encoder.embedding": (VOCABULARY, d)}

    def attention(prefix: str) -> None:
        for part in "qkv":
            shapes[f"{prefix}.{part}.kernel"] = (d, inner)
        shapes[f"{prefix}.o.kernel"] = (inner, d)

    for stack in ("encoder", "decoder"):
        shapes[f"{stack}.relative_bias"] = (32, shape.heads)
        shapes[f"{stack}.final_norm.scale"] = (d,)
        for number in range(shape.layers):
            layer = f"{stack}.layers.{number}"
            kinds = {"attention": "attention_norm"}
            if stack == "decoder":
                kinds = {"self_attention": "self_norm", "cross_attention": "cross_norm"}
            for kind, norm in kinds.items():
                attention(f"{layer}.{kind}")
                shapes[f"{layer}.{norm}.scale"] = (d,)
            shapes[f"{layer}.mlp_norm.scale"] = (d,)
            shapes[f"{layer}.mlp.wi_0.kernel"] = (d, shape.d_ff)
            shapes[f"{layer}.mlp.wi_1.kernel"] = (d, shape.d_ff)
            shapes[f"{layer}.mlp.wo.kernel"] = (shape.d_ff, d)
    shapes["decoder.lm_head.kernel"] = (d, VOCABULARY)
    return shapes


def random_tensors(shape: Shape) -> dict[str, np.ndarray]:
    """All weights, float32."""
    tensors: dict[str, np.ndarray] = {}
    for name, size in tensor_shapes(shape).items():
        rng = np.random.default_rng([shape.seed, zlib.crc32(name.encode())])
        value = rng.standard_normal(size, dtype=np.float32)
        if name.endswith(".scale"):
            value = 1.0 + 0.1 * value
        elif name.endswith("relative_bias"):
            value = 1.0 * value
        elif name.endswith(".q.kernel"):
            value *= 1.5 * (size[0] * shape.d_kv) ** -0.5
        elif name == "encoder.embedding":
            value *= 0.2
        elif name == "decoder.lm_head.kernel":
            value *= 1.5 * size[0] ** -0.5
            value[:, EOS] *= shape.end_scale
        else:
            value *= size[0] ** -0.5
        tensors[name] = value.astype(np.float32)
    return tensors


@dataclass(frozen=True)
class Inputs:
    """Padded questions and passages: tokens int32, lengths int32; passage length 0 is an absent passage."""

    question: np.ndarray  # [B,Sq]
    question_lengths: np.ndarray  # [B]
    passages: np.ndarray  # [B,k,L]
    passage_lengths: np.ndarray  # [B,k]


def inputs() -> Inputs:
    """Three questions with up to four passages each; widths 12 and 40, every kind of padding."""
    rng = np.random.default_rng(5)
    question_lengths = np.array([12, 7, 1], np.int32)
    passage_lengths = np.array([[40, 13, 31, 25], [22, 40, 0, 5], [18, 0, 0, 0]], np.int32)
    question = rng.integers(2, 32100, (3, 12)).astype(np.int32)
    passages = rng.integers(2, 32100, (3, 4, 40)).astype(np.int32)
    question[np.arange(12) >= question_lengths[:, None]] = 0
    passages[np.arange(40) >= passage_lengths[..., None]] = 0
    return Inputs(question, question_lengths, passages, passage_lengths)
