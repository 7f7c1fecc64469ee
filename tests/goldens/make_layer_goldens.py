"""Writes `layers_*.npz` and `relative_buckets.npz`: what Hugging Face transformers (PyTorch, float32) compute.

Run in an environment with PyTorch and transformers, from any directory:
    python tests/goldens/make_layer_goldens.py
Each file holds, for the embedding and every layer, sampled activations and the norm of every real position; for T5 also
those after the final norm. Made with torch 2.13 and transformers 5.23.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_weights import (
    BERT_POSITIONS,
    BERT_SHAPES,
    BERT_VOCABULARY,
    LENGTHS,
    T5_SHAPES,
    T5_VOCABULARY,
    draw,
    norms,
    sample,
    tokens,
)
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

HERE = Path(__file__).parent
BUCKETS = ((32, 128, True), (32, 128, False), (16, 64, True), (64, 256, False), (8, 20, True))


def fill(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(draw(name, tuple(parameter.shape))))


def run(
    model: torch.nn.Module, blocks: torch.nn.ModuleList, embedding: torch.nn.Module, vocabulary: int
) -> dict[str, Any]:
    """Outputs of the embedding and of every block, by hooks, and the model's own final output."""
    captured: list[np.ndarray] = []

    def keep(_module: torch.nn.Module, _inputs: object, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        captured.append(first.numpy())

    for module in (embedding, *blocks):
        module.register_forward_hook(keep)
    ids = tokens(vocabulary)
    mask = (np.arange(ids.shape[1])[None] < np.array(LENGTHS)[:, None]).astype(np.int64)
    with torch.inference_mode():
        final = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state.numpy()
    assert len(captured) == 1 + len(blocks)
    layers = [*captured, final]
    return {"samples": np.stack([sample(each) for each in layers]), "norms": np.stack([norms(each) for each in layers])}


def main() -> None:
    for name, shape in T5_SHAPES.items():
        config = T5Config(vocab_size=T5_VOCABULARY, feed_forward_proj="gated-gelu", tie_word_embeddings=False, **shape)
        model = T5EncoderModel(config).eval()
        fill(model)
        arrays = run(model, model.encoder.block, model.encoder.embed_tokens, T5_VOCABULARY)
        np.savez_compressed(HERE / f"layers_{name}.npz", **arrays)
    for name, shape in BERT_SHAPES.items():
        config = BertConfig(
            vocab_size=BERT_VOCABULARY,
            hidden_size=shape["d_model"],
            intermediate_size=shape["d_ff"],
            num_attention_heads=shape["num_heads"],
            num_hidden_layers=shape["num_layers"],
            max_position_embeddings=BERT_POSITIONS,
        )
        model = BertModel(config, add_pooling_layer=False).eval()
        fill(model)
        arrays = run(model, model.encoder.layer, model.embeddings, BERT_VOCABULARY)
        np.savez_compressed(HERE / f"layers_{name}.npz", **arrays)
    distance = torch.arange(-700, 701)
    tables = {
        f"{buckets}_{most}_{'both' if both else 'past'}": T5Attention._relative_position_bucket(
            distance, bidirectional=both, num_buckets=buckets, max_distance=most
        )
        .numpy()
        .astype(np.uint8)
        for buckets, most, both in BUCKETS
    }
    np.savez_compressed(HERE / "relative_buckets.npz", **tables)


if __name__ == "__main__":
    main()
