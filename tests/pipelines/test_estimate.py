"""Costs follow the papers' formulas, count every product, and agree with what a compiler counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from glimmer import ModelError, UsageError
from glimmer.encoders.families.encoder_family import TokenizerSpec
from glimmer.encoders.families.t5 import T5_1_1_SIZES, T5Config
from glimmer.encoders.model_config import ModelConfig
from glimmer.encoders.t5_layers import T5Encoder
from glimmer.pipelines.capacity.costs import (
    cross_memory_cost,
    decoder_step_cost,
    formula_cost,
    memory_passage_cost,
    stage_costs,
)
from glimmer.pipelines.capacity.estimate import (
    Estimate,
    estimate,
    model_config,
    readers_table,
    split_layers,
    t5_config,
)
from glimmer.reader.config import RerankerConfig
from glimmer.reader.decoder import Decoder
from glimmer.reader.fusion import Fused

WIKIPEDIA: dict[str, Any] = {"model": "t5-base", "passages": 22_000_000, "passage_tokens": 140, "code_bytes": 768 + 4}


def test_the_formula_is_the_papers() -> None:
    d, n_p, n_t, layers = 768, 250, 16, 12
    common: dict[str, Any] = {"width": d, "layers": layers, "passage_tokens": n_p, "answer_tokens": n_t}
    decoder = n_t * layers * 14 * d**2
    assert (
        formula_cost(**common, live_a=0, live_b=12, candidates=10, selected=10)
        == 10 * n_p * layers * 14 * d**2 + decoder
    )
    lumen = 10 * n_p * 4 * 12 * d**2 + 10 * n_p * layers * 2 * d**2 + decoder
    assert formula_cost(**common, live_a=0, live_b=4, candidates=10, selected=10) == lumen
    glimmer = 40 * n_p * 1 * 12 * d**2 + 10 * n_p * 3 * 12 * d**2 + 10 * n_p * layers * 2 * d**2 + decoder
    assert formula_cost(**common, live_a=1, live_b=3, candidates=40, selected=10) == glimmer


@pytest.mark.parametrize("size", T5_1_1_SIZES)
def test_the_full_count_comes_near_the_formula_where_the_formula_looks(size: str) -> None:
    """T5.1.1 has about 12d² an encoder layer; with one-token rows attention scores vanish."""
    config = t5_config(size, alpha=1 / 3, beta=1 / 4)
    full = stage_costs(config, question_tokens=0, passage_tokens=1, candidates=40_000, selected=10_000, answer_tokens=1)
    inner = config.encoder.num_heads * config.encoder.d_kv
    per_layer = 4 * config.encoder.d_model * inner + 3 * config.encoder.d_model * config.encoder.d_ff
    live = config.live_a_layers * 40_000 + config.live_b_layers * 10_000
    assert full.live_a + full.live_b == live * (per_layer + 2 * inner)
    share = 9 if size == "t5-small" else 12  # small's six heads are narrower than its hidden state
    assert per_layer == pytest.approx(share * config.encoder.d_model**2, rel=0.12)


def test_every_member_of_the_family_is_counted() -> None:
    shape: dict[str, Any] = {"question_tokens": 16, "passage_tokens": 128, "selected": 5, "answer_tokens": 8}
    glimmer = t5_config("t5-base", alpha=1 / 3, beta=1 / 4)
    fid = t5_config("t5-base", alpha=1, beta=0)
    lumen = t5_config("t5-base", alpha=1 / 3, beta=0)
    full = stage_costs(fid, candidates=5, **shape)
    assert (full.question, full.live_a, full.rerank) == (0, 0, 0)
    assert full.live_b == 5 * 12 * fid.encoder.layer_cost(144)
    assert stage_costs(lumen, candidates=5, **shape).question == 8 * lumen.encoder.layer_cost(16)
    reranked = stage_costs(glimmer, candidates=20, **shape)
    assert reranked.live_a == 20 * glimmer.encoder.layer_cost(144)
    assert reranked.rerank == 20 * 768
    separate = replace(lumen, reranker=RerankerConfig(layers=2))
    assert stage_costs(separate, candidates=20, **shape).rerank == 20 * (768 + 2 * lumen.encoder.layer_cost(144))
    late = replace(glimmer, reranker=RerankerConfig(late_interaction=1.0))
    assert stage_costs(late, candidates=20, **shape).rerank == 20 * 768 * (1 + 16 * 128)
    assert reranked.total == sum(value for name, value in reranked.to_json().items() if name != "total")
    with pytest.raises(UsageError, match="select must lie between 1 and the 4 candidates"):
        stage_costs(glimmer, candidates=4, **shape)


def test_decoder_options_save_what_they_save() -> None:
    plain = t5_config("t5-base", alpha=1 / 3, beta=1 / 4).decoder
    single, sparse = replace(plain, kv_heads=1), replace(plain, cross_every=6)
    assert cross_memory_cost(plain, places=1_000, memory_width=768) == 1_000 * 12 * 2 * 768 * 768
    assert cross_memory_cost(single, places=1_000, memory_width=768) == 1_000 * 12 * 2 * 768 * 64
    assert cross_memory_cost(sparse, places=1_000, memory_width=768) == 1_000 * 2 * 2 * 768 * 768
    assert (
        cross_memory_cost(plain, places=10, memory_width=384) - cross_memory_cost(plain, places=10, memory_width=768)
        == 10 * 384 * 768
    )
    assert decoder_step_cost(sparse, places=1_000, cache=16) < decoder_step_cost(plain, places=1_000, cache=16)


def operations(function: Any, *arguments: Any) -> float:
    """What XLA counts: two operations a multiply-add, norms and the like included."""
    analysis = jax.jit(function).lower(*arguments).compile().cost_analysis()
    assert analysis is not None
    return float(analysis["flops"])


def test_encoder_layers_agree_with_the_compiler() -> None:
    config = replace(t5_config("t5-small", alpha=1 / 3, beta=1 / 4).encoder, num_layers=2, vocab_size=64)
    assert isinstance(config, T5Config)
    encoder = T5Encoder(config, rngs=nnx.Rngs(0), dtype=jnp.float32)
    rows, tokens = 3, 96
    graph, state = nnx.split(encoder)

    def run(state: Any, hidden: jax.Array) -> jax.Array:
        model = nnx.merge(graph, state)
        return model.run(hidden, model.context(jnp.ones((rows, tokens), bool), None), 0, 2)

    counted = operations(run, state, jnp.ones((rows, tokens, config.d_model)))
    assert counted == pytest.approx(2 * rows * 2 * config.layer_cost(tokens), rel=0.1)


@pytest.mark.parametrize(("kv_heads", "cross_every", "copy_width"), [(6, 1, 0), (1, 2, 0), (1, 2, 512)])
def test_the_decoder_agrees_with_the_compiler(kv_heads: int, cross_every: int, copy_width: int) -> None:
    whole = t5_config("t5-small", alpha=1 / 3, beta=1 / 4)
    config = replace(
        whole.decoder,
        num_layers=2,
        vocab_size=1_024,
        kv_heads=kv_heads,
        cross_every=cross_every,
        copy_width=copy_width,
        shared_embedding=False,
    )
    decoder = Decoder(config, memory_width=config.d_model, rngs=nnx.Rngs(0), dtype=jnp.float32)
    places, cache = 480, 16
    graph, state = nnx.split(decoder)
    fused = Fused(jnp.ones((1, places, config.d_model)), jnp.ones((1, places), bool), jnp.ones((1, places), jnp.int32))
    cross = decoder.cross(fused)
    counted = operations(lambda state: nnx.merge(graph, state).cross(fused), state)
    assert counted == pytest.approx(2 * cross_memory_cost(config, places=places, memory_width=config.d_model), rel=0.1)

    def step(state: Any, tokens: jax.Array) -> Any:
        model = nnx.merge(graph, state)
        return model.step(tokens, jnp.int32(3), model.empty_cache(1, 2, cache), cross, None)

    counted = operations(step, state, jnp.zeros((1, 2), jnp.int32))
    assert counted == pytest.approx(2 * 2 * decoder_step_cost(config, places=places, cache=cache), rel=0.1)


def test_wikipedia_offline() -> None:
    found = estimate(**WIKIPEDIA, peak_flops=1e15, utilisation=0.5)
    config = found.config
    assert (config.memory_layers, config.live_a_layers, config.live_b_layers) == (8, 1, 3)
    assert found.offline.flops == 2 * 22e6 * memory_passage_cost(config, 140)
    assert found.offline.formula_flops == 2 * 22e6 * 140 * 8 * 12 * 768**2
    assert found.offline.hours == pytest.approx(found.offline.flops / 5e14 / 3600)
    assert found.offline.code_bytes == 22e6 * (140 * 772 + 4)
    assert found.offline.bytes > found.offline.code_bytes
    assert estimate(**WIKIPEDIA, padding=1.5).offline.flops > 1.5 * estimate(**WIKIPEDIA).offline.flops


def test_readers_stand_side_by_side() -> None:
    found = estimate(**WIKIPEDIA)
    assert [reader.name for reader in found.online] == [
        "FiD over all",
        "FiD over the selected",
        "LUMEN over all",
        "LUMEN over the selected",
        "GLIMMER",
    ]
    cost = {reader.name: reader for reader in found.online}
    assert cost["GLIMMER"].stages.total < cost["LUMEN over all"].stages.total < cost["FiD over all"].stages.total
    assert cost["FiD over all"].fetched_bytes == 0
    assert cost["GLIMMER"].fetched_bytes == 40 * 140 * 772
    assert found.speedup(formula=True) == cost["FiD over all"].formula / cost["GLIMMER"].formula
    assert found.speedup() > 4
    assert len(readers_table(found.online)) == 6
    with pytest.raises(UsageError, match="no reader 'RETRO'"):
        found.speedup("RETRO")
    assert (
        json.loads(json.dumps(found.to_json()))["online"][-1]["multiply_adds"]["total"] == cost["GLIMMER"].stages.total
    )


@pytest.mark.parametrize(
    ("layers", "alpha", "beta", "parts"),
    [
        (12, 1 / 3, 1 / 4, (8, 1, 3)),
        (24, 1 / 3, 1 / 4, (16, 2, 6)),
        (6, 1 / 3, 1 / 2, (4, 1, 1)),
        (12, 1, 0, (0, 0, 12)),
    ],
)
def test_layers_are_shared_out_in_whole_numbers(
    layers: int, alpha: float, beta: float, parts: tuple[int, int, int]
) -> None:
    assert split_layers(layers, alpha, beta) == parts


@pytest.mark.parametrize(
    ("alpha", "beta", "reason"),
    [
        (0, 0, "alpha must lie in"),
        (1.5, 0, "alpha must lie in"),
        (0.5, 1, "beta must lie in"),
        (0.01, 0, "leave none for the live encoder"),
        (0.99, 0.5, "leave none for the memory encoder"),
        (1 / 3, 0.01, "leave none for the live A"),
        (1 / 3, 0.99, "leave none for the live B"),
    ],
)
def test_a_part_without_layers_is_refused(alpha: float, beta: float, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        split_layers(12, alpha, beta)


def directory(path: Path) -> Path:
    reader = t5_config("t5-small", alpha=1 / 2, beta=1 / 4)
    config = ModelConfig(
        encoder=reader.encoder,
        memory_layers=reader.memory_layers,
        live_a_layers=reader.live_a_layers,
        live_b_layers=reader.live_b_layers,
        tokenizer=TokenizerSpec(kind="sentencepiece", file="spiece.model"),
        passage_template="{title} {text}",
        question_template="{question}",
        source="test",
        decoder=reader.decoder.to_json(),
    )
    (path / "config.json").write_text(json.dumps(config.to_json()))
    return path


def test_a_model_directory_is_estimated_as_it_is_or_shared_out_anew(tmp_path: Path) -> None:
    config = model_config(directory(tmp_path))
    assert (config.memory_layers, config.live_a_layers, config.live_b_layers) == (4, 1, 3)
    anew = model_config(tmp_path, alpha=1 / 4, beta=1 / 2)
    assert (anew.memory_layers, anew.live_a_layers, anew.live_b_layers) == (6, 1, 1)
    with pytest.raises(UsageError, match=r"alpha 0\.25 and beta 0\.25 leave none for the live A"):
        model_config(tmp_path, alpha=1 / 4)
    found: Estimate = estimate(**{**WIKIPEDIA, "model": tmp_path})
    assert found.config == config
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError):
        model_config(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "t5-huge"}, "no model size 't5-huge'"),
        ({"passages": 0}, "passages must be positive"),
        ({"passage_tokens": -1}, "passage_tokens must be positive"),
        ({"utilisation": 1.2}, "utilisation"),
        ({"utilisation": 0}, "utilisation"),
        ({"padding": 0.5}, "padding"),
        ({"selected": 41}, "select must lie between"),
        ({"peak_flops": float("nan")}, "peak_flops"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        estimate(**{**WIKIPEDIA, **change})
