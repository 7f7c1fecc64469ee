"""The decoder: one token at a time is the same as all at once, in every configuration it has."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glimmer import ModelError
from glimmer.reader.config import DecoderConfig
from glimmer.reader.decoder import Decoder
from glimmer.reader.fusion import Fused

SIZES = {"vocab_size": 40, "d_model": 24, "d_ff": 32, "num_heads": 4, "d_kv": 5, "num_layers": 4}
VARIANTS: dict[str, dict[str, Any]] = {
    "t5": {"kv_heads": 4},
    "multi-query": {"kv_heads": 1},
    "layer-sparse": {"kv_heads": 4, "cross_every": 2},
    "fido": {"kv_heads": 1, "cross_every": 4},
    "own embedding": {"kv_heads": 4, "shared_embedding": False},
    "tied head": {"kv_heads": 4, "tied_head": True, "head_scale": 0.2},
    "not gated": {"kv_heads": 4, "gated": False},
}


def build(width: int = 24, **settings: object) -> tuple[Decoder, jax.Array | None]:
    config = DecoderConfig(**(SIZES | settings))  # type: ignore[arg-type]
    table = jax.random.normal(jax.random.key(9), (40, 24)) if config.shared_embedding else None
    return Decoder(config, memory_width=width, rngs=nnx.Rngs(3)), table


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_decoding_equals_teacher_forcing(variant: str) -> None:
    decoder, table = build(**VARIANTS[variant])
    rng = np.random.default_rng(0)
    memory = jnp.asarray(rng.normal(size=(2, 11, 24)), jnp.float32)
    mask = jnp.asarray([[True] * 11, [True] * 6 + [False] * 5])
    tokens = jnp.asarray(rng.integers(0, 40, (2, 7)), jnp.int32)
    at_once = jax.jit(decoder.logits)(tokens, Fused(memory, mask), table)

    step = jax.jit(decoder.step)
    cross, cache, steps = decoder.cross(Fused(memory, mask)), decoder.empty_cache(2, 2, 7), []
    for position in range(7):
        pair = jnp.broadcast_to(tokens[:, position, None], (2, 2))
        logits, cache = step(pair, jnp.int32(position), cache, cross, table)
        np.testing.assert_allclose(logits[:, 0], logits[:, 1], atol=1e-6)
        steps.append(logits[:, 0])
    np.testing.assert_allclose(jnp.stack(steps, axis=1), at_once, atol=2e-5)


def test_masked_memory_never_matters() -> None:
    decoder, table = build(kv_heads=4)
    logits = jax.jit(decoder.logits)
    memory = jax.random.normal(jax.random.key(0), (1, 8, 24))
    mask = jnp.arange(8)[None] < 5
    tokens = jnp.asarray([[0, 7, 3]], jnp.int32)
    expected = logits(tokens, Fused(memory, mask), table)
    np.testing.assert_array_equal(logits(tokens, Fused(memory.at[:, 5:].set(1e4), mask), table), expected)


def test_nothing_to_read_gives_finite_logits() -> None:
    decoder, table = build(kv_heads=4)
    memory = jnp.zeros((1, 8, 24))
    nothing = Fused(memory, jnp.zeros((1, 8), bool))
    assert jnp.isfinite(decoder.logits(jnp.zeros((1, 3), jnp.int32), nothing, table)).all()


def test_beams_of_one_question_share_its_passages_and_can_be_reordered() -> None:
    decoder, table = build(kv_heads=4)
    memory, mask = jax.random.normal(jax.random.key(0), (2, 8, 24)), jnp.ones((2, 8), bool)
    cross, step = decoder.cross(Fused(memory, mask)), jax.jit(decoder.step)
    first = jnp.asarray([[3, 4, 5], [6, 7, 8]], jnp.int32)
    _, cache = step(first, jnp.int32(0), decoder.empty_cache(2, 3, 4), cross, table)
    parents = jnp.asarray([[2, 2, 0], [1, 0, 2]], jnp.int32)
    then = jnp.full((2, 3), 9, jnp.int32)
    moved, _ = step(then, jnp.int32(1), cache.reorder(parents), cross, table)
    stayed, _ = step(then, jnp.int32(1), cache, cross, table)
    expected = jnp.take_along_axis(stayed, parents[..., None], axis=1)
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_an_encoder_of_another_width_is_projected() -> None:
    decoder, table = build(width=16, kv_heads=4)
    assert decoder.memory_projection is not None
    memory = jax.random.normal(jax.random.key(0), (1, 8, 16))
    fused = Fused(memory, jnp.ones((1, 8), bool))
    assert decoder.logits(jnp.zeros((1, 2), jnp.int32), fused, table).shape == (1, 2, 40)


def test_layer_sparse_cross_attention_is_in_every_nth_layer_from_the_nth() -> None:
    decoder, _ = build(kv_heads=4, cross_every=2)
    assert [layer.cross_attention is not None for layer in decoder.layers] == [False, True, False, True]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"kv_heads": 3}, "kv_heads"),
        ({"kv_heads": 4, "cross_every": 5}, "cross_every"),
        ({"kv_heads": 4, "eos_id": 40}, "eos_id"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        DecoderConfig(**(SIZES | settings))  # type: ignore[arg-type]


def test_configuration_survives_its_file_and_unknown_keys_do_not() -> None:
    config = DecoderConfig(**SIZES, kv_heads=1, cross_every=2)  # type: ignore[arg-type]
    assert DecoderConfig.from_json(config.to_json()) == config
    with pytest.raises(ModelError, match=r"model\.json: decoder\.colour"):
        DecoderConfig.from_json(config.to_json() | {"colour": 1}, "model.json")
    with pytest.raises(ModelError, match=r"decoder\.d_ff"):
        DecoderConfig.from_json({key: value for key, value in config.to_json().items() if key != "d_ff"})
