"""Random weights that two worlds can draw alike: the script that runs Hugging Face's models and the tests of ours.

Committing weights would take a gigabyte; drawing each tensor from a generator seeded by its name takes none. Names are
Hugging Face's. Scales keep activations at the size that trained models have, so that a relative error means something.
Only NumPy is needed, and both sides need the same values bit for bit: `standard_normal` in float32 of PCG64 is stable.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float32]]

T5_SHAPES: dict[str, dict[str, int]] = {
    "t5_small": {"d_model": 512, "d_ff": 1024, "num_heads": 6, "d_kv": 64, "num_layers": 8},
    "t5_base": {"d_model": 768, "d_ff": 2048, "num_heads": 12, "d_kv": 64, "num_layers": 12},
}
BERT_SHAPES: dict[str, dict[str, int]] = {
    "minilm": {"d_model": 384, "d_ff": 1536, "num_heads": 12, "num_layers": 6},
}
T5_VOCABULARY, BERT_VOCABULARY, BERT_POSITIONS = 32128, 30522, 512
LENGTHS = (160, 97, 5)  # real tokens of each row; the rest of 160 is padding
SAMPLED_POSITIONS = ((0, 1, 80, 159), (0, 50, 96), (0, 4))
SAMPLED_STRIDE = 13  # every 13th dimension


def draw(name: str, shape: tuple[int, ...]) -> Array:
    """The tensor of that Hugging Face name, float32."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if "norm" in name.lower():
        return (values * np.float32(0.1) + np.float32(name.endswith("weight"))).astype(np.float32)
    if name.endswith(".bias"):
        return (values * np.float32(0.1)).astype(np.float32)
    if "relative_attention_bias" in name:
        return values
    if "embed" in name or name == "shared.weight":
        return values
    scale = shape[-1] ** -0.5
    if name.endswith("SelfAttention.q.weight"):
        scale *= 64**-0.5  # T5 leaves 1/sqrt(d_kv) to its query weights
    return (values * np.float32(scale)).astype(np.float32)


def tokens(vocabulary: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Random ids [rows, longest]; padding positions hold random ids too, so a leaking mask shows."""
    return np.random.default_rng(7).integers(2, vocabulary, (len(LENGTHS), max(LENGTHS)))


def sample(hidden: Array) -> Array:
    """The committed part of one layer's output [rows, longest, width]: some positions, some dimensions."""
    rows = [hidden[row, list(positions), ::SAMPLED_STRIDE] for row, positions in enumerate(SAMPLED_POSITIONS)]
    return np.concatenate(rows).astype(np.float32)


def norms(hidden: Array) -> Array:
    """The 2-norm of every real position of one layer's output, rows one after another."""
    return np.concatenate(
        [np.linalg.norm(hidden[row, :length].astype(np.float64), axis=-1) for row, length in enumerate(LENGTHS)]
    ).astype(np.float32)


def _tiny_t5() -> dict[str, tuple[int, ...]]:
    """Hugging Face names and shapes of a T5 v1.1 with one layer a side: width 8, 2 heads of 3, inner 16, 16 words."""
    width, inner, hidden = 8, 6, 16
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (16, width), "lm_head.weight": (16, width)}
    for side, attentions in (("encoder", ("SelfAttention",)), ("decoder", ("SelfAttention", "EncDecAttention"))):
        block = f"{side}.block.0.layer"
        shapes[f"{block}.0.SelfAttention.relative_attention_bias.weight"] = (32, 2)
        shapes[f"{side}.final_layer_norm.weight"] = (width,)
        for place, attention in enumerate(attentions):
            shapes[f"{block}.{place}.layer_norm.weight"] = (width,)
            for part in "qkvo":
                shapes[f"{block}.{place}.{attention}.{part}.weight"] = (width, inner) if part == "o" else (inner, width)
        last = f"{block}.{len(attentions)}"
        shapes[f"{last}.layer_norm.weight"] = (width,)
        for part in ("wi_0", "wi_1"):
            shapes[f"{last}.DenseReluDense.{part}.weight"] = (hidden, width)
        shapes[f"{last}.DenseReluDense.wo.weight"] = (width, hidden)
    return shapes


TINY_T5 = _tiny_t5()
TINY_T5_CONFIG: dict[str, Any] = {
    "model_type": "t5",
    "vocab_size": 16,
    "d_model": 8,
    "d_ff": 16,
    "num_heads": 2,
    "d_kv": 3,
    "num_layers": 1,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
