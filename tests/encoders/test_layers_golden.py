"""Every layer of both families equals Hugging Face transformers' on the same random weights (float32).

The goldens hold sampled activations and the norm of every real position for the embedding and each layer, at the real
shapes of T5 v1.1 small and base and of MiniLM, with padding in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glimmer.encoders.families.bert import BertConfig, rename_bert
from glimmer.encoders.families.encoder_family import EncoderConfig, TokenizerSpec
from glimmer.encoders.families.t5 import T5Config, rename_t5
from glimmer.encoders.layered import Context, mask_bias
from glimmer.encoders.model_config import ModelConfig
from glimmer.encoders.models import LoadedModel
from glimmer.encoders.primitives import relative_position_bucket
from glimmer.encoders.weights import LazyTensor, Tensors

FLOAT32_TOLERANCE = 1e-4
Compiled = Callable[..., Any]


def _drawn(weights: ModuleType, shapes: dict[str, tuple[int, ...]]) -> Tensors:
    def entry(name: str, shape: tuple[int, ...]) -> LazyTensor:
        return LazyTensor(shape, np.dtype(np.float32), lambda: weights.draw(name, shape))

    return Tensors({name: entry(name, shape) for name, shape in shapes.items()}, "drawn")


def _t5(weights: ModuleType, name: str) -> tuple[Any, Tensors]:
    shape = weights.T5_SHAPES[name]
    config = T5Config(
        vocab_size=weights.T5_VOCABULARY,
        layer_norm_eps=1e-6,
        relative_buckets=32,
        relative_max_distance=128,
        gated=True,
        **shape,
    )
    width, inner, hidden = config.d_model, config.num_heads * config.d_kv, config.d_ff
    theirs: dict[str, tuple[int, ...]] = {
        "shared.weight": (config.vocab_size, width),
        "encoder.final_layer_norm.weight": (width,),
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, config.num_heads),
    }
    for number in range(config.num_layers):
        block = f"encoder.block.{number}.layer"
        for part in "qkvo":
            theirs[f"{block}.0.SelfAttention.{part}.weight"] = (width, inner) if part == "o" else (inner, width)
        for place in (0, 1):
            theirs[f"{block}.{place}.layer_norm.weight"] = (width,)
        for part in ("wi_0", "wi_1"):
            theirs[f"{block}.1.DenseReluDense.{part}.weight"] = (hidden, width)
        theirs[f"{block}.1.DenseReluDense.wo.weight"] = (width, hidden)
    return config, rename_t5(_drawn(weights, theirs), config, decoder_layers=0, tied_head=False)


def _bert(weights: ModuleType, name: str) -> tuple[Any, Tensors]:
    shape = weights.BERT_SHAPES[name]
    config = BertConfig(
        vocab_size=weights.BERT_VOCABULARY,
        layer_norm_eps=1e-12,
        max_positions=weights.BERT_POSITIONS,
        type_vocab_size=2,
        d_kv=shape["d_model"] // shape["num_heads"],
        **shape,
    )
    width, hidden = config.d_model, config.d_ff
    theirs: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (weights.BERT_POSITIONS, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for number in range(config.num_layers):
        layer = f"encoder.layer.{number}"
        kernels = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        kernels |= {"attention.output.dense": (width, width)}
        kernels |= {"intermediate.dense": (hidden, width), "output.dense": (width, hidden)}
        for part, kernel in kernels.items():
            theirs[f"{layer}.{part}.weight"] = kernel
            theirs[f"{layer}.{part}.bias"] = kernel[:1]
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            theirs[f"{layer}.{part}.weight"] = (width,)
            theirs[f"{layer}.{part}.bias"] = (width,)
    return config, rename_bert(_drawn(weights, theirs), config)


def _model(config: EncoderConfig, tensors: Tensors) -> LoadedModel:
    whole = ModelConfig(
        encoder=config,
        memory_layers=config.num_layers,
        live_a_layers=0,
        live_b_layers=0,
        tokenizer=TokenizerSpec(kind="sentencepiece", file="none"),
        passage_template="{text}",
        question_template="{question}",
        source="drawn",
    )
    tokenizer: Any = None  # ids are drawn, too
    return LoadedModel(config=whole, tensors=tensors, tokenizer=tokenizer, path=Path("drawn"))


def _all_outputs(encoder: Any, ids: jax.Array, mask: jax.Array) -> list[jax.Array]:
    hidden, context = encoder.embed(ids), encoder.context(mask)
    outputs = [hidden]
    for number in encoder.layer_range:
        hidden = encoder.run(hidden, context, number, number + 1)
        outputs.append(hidden)
    return [*outputs, encoder.finish(hidden)]


def _inputs(weights: ModuleType, config: EncoderConfig) -> tuple[jax.Array, jax.Array]:
    ids = jnp.asarray(weights.tokens(config.vocab_size), jnp.int32)
    return ids, jnp.arange(ids.shape[1])[None] < jnp.asarray(weights.LENGTHS)[:, None]


@pytest.mark.parametrize(("family", "name"), [("t5", "t5_small"), ("t5", "t5_base"), ("bert", "minilm")])
def test_every_layer_equals_transformers(
    weights: ModuleType, goldens: Path, compiled: Compiled, family: str, name: str
) -> None:
    """The embedding, each layer's output and the final output, at sampled dimensions and in norm everywhere."""
    config, tensors = _t5(weights, name) if family == "t5" else _bert(weights, name)
    golden = np.load(goldens / f"layers_{name}.npz")
    encoder = _model(config, tensors).encoder("float32")
    outputs = compiled(encoder, _all_outputs)(*_inputs(weights, config))
    assert len(outputs) == len(golden["samples"])
    for layer, output in enumerate(outputs):
        ours, theirs = weights.sample(np.asarray(output)), golden["samples"][layer]
        error = np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)
        assert error.max() < FLOAT32_TOLERANCE, f"output {layer}: relative error {error.max():.2e}"
        np.testing.assert_allclose(weights.norms(np.asarray(output)), golden["norms"][layer], rtol=FLOAT32_TOLERANCE)


@pytest.mark.parametrize(("family", "name"), [("t5", "t5_small"), ("bert", "minilm")])
def test_bfloat16_stays_near_transformers(
    weights: ModuleType, goldens: Path, compiled: Compiled, family: str, name: str
) -> None:
    """The default precision differs from float32 by bfloat16 rounding and no more: 3 % in norm after all layers."""
    config, tensors = _t5(weights, name) if family == "t5" else _bert(weights, name)
    golden = np.load(goldens / f"layers_{name}.npz")
    outputs = compiled(_model(config, tensors).encoder("bfloat16"), _all_outputs)(*_inputs(weights, config))
    ours, theirs = weights.sample(np.asarray(outputs[-1], np.float32)), golden["samples"][-1]
    assert (np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)).max() < 0.03


def test_relative_buckets_are_bit_equal_to_transformers(goldens: Path) -> None:
    """Every distance within 700, for several tables, the boundaries at powers of two included."""
    golden = np.load(goldens / "relative_buckets.npz")
    distance = jnp.arange(-700, 701)
    for key in golden.files:
        buckets, most, direction = key.split("_")
        ours = relative_position_bucket(
            distance, bidirectional=direction == "both", num_buckets=int(buckets), max_distance=int(most)
        )
        np.testing.assert_array_equal(np.asarray(ours), golden[key], err_msg=key)


def test_positions_may_skip_padding(weights: ModuleType, compiled: Compiled) -> None:
    """[question; memory] with the question's padding skipped gives what the unpadded sequence gives."""
    config, tensors = _t5(weights, "t5_small")
    encoder = _model(config, tensors).encoder("float32", slice(0, 2))
    run = compiled(encoder, lambda e, ids, mask, where: e.run(e.embed(ids), e.context(mask, where), 0, 2))
    ids = np.asarray(weights.tokens(config.vocab_size)[:1, :40], np.int32)
    plain = run(ids, np.ones((1, 40), bool), np.arange(40, dtype=np.int32)[None])
    gap = [10] * 6
    mask = np.insert(np.ones((1, 40), bool), gap, False, axis=1)
    gapped = run(np.insert(ids, gap, 3, axis=1), mask, np.insert(np.arange(40, dtype=np.int32), gap, 0)[None])
    np.testing.assert_allclose(np.asarray(gapped)[mask], np.asarray(plain)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_an_encoder_of_some_layers_computes_the_same(weights: ModuleType, compiled: Compiled, family: str) -> None:
    """An instance that has some layers is addressed by the whole model's layer numbers."""
    config, tensors = _t5(weights, "t5_small") if family == "t5" else _bert(weights, "minilm")
    model = _model(config, tensors)
    hidden, mask = jax.random.normal(jax.random.key(0), (1, 8, config.d_model)), jnp.ones((1, 8), bool)
    whole, part = (
        compiled(model.encoder("float32", layers), lambda e, hidden: e.run(hidden, e.context(mask), 2, 4))
        for layers in (slice(None), slice(2, 4))
    )
    np.testing.assert_array_equal(np.asarray(whole(hidden)), np.asarray(part(hidden)))
    with pytest.raises(ValueError, match=r"has \[2, 4\)"):
        model.encoder("float32", slice(2, 4)).run(hidden, Context(mask=mask_bias(mask)), 1, 3)
