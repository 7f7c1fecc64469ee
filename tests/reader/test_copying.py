"""Copying from the passages: one distribution over words written and words pointed at."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glimmer import ModelError
from glimmer.encoders.families.bert import BertConfig
from glimmer.reader.config import DecoderConfig, ReaderConfig
from glimmer.reader.copying import NO_TOKEN, CopyHead, MixtureLogWeights, mixture_log_likelihood, mixture_log_probs
from glimmer.reader.decoder import Decoder
from glimmer.reader.fusion import Fused, fuse, fused_prior, fused_tokens
from glimmer.reader.live_encoder import Lengths

CONFIG = DecoderConfig(
    vocab_size=40,
    d_model=24,
    d_ff=32,
    num_heads=4,
    kv_heads=4,
    d_kv=5,
    num_layers=2,
    copy_width=8,
    start_id=0,
    eos_id=1,
    pad_id=0,
)
TABLE = jax.random.normal(jax.random.key(9), (40, 24))
FUSED = jnp.asarray([[NO_TOKEN, 7, 3, 7, 1, 12], [NO_TOKEN, 4, NO_TOKEN, 6, 0, NO_TOKEN]], jnp.int32)
WRITTEN = jnp.asarray([[0, 7, 3], [0, 6, 30]], jnp.int32)
ANSWERS = jnp.asarray([[7, 3, 1], [6, 30, 1]], jnp.int32)


def decoder(**changes: Any) -> Decoder:
    return Decoder(replace(CONFIG, **changes), memory_width=24, rngs=nnx.Rngs(3))


def fused() -> Fused:
    """What is read: the places of `FUSED`, the second passage far less likely than the first."""
    prior = jnp.asarray([[-0.1, -0.1, -0.1, -3.0, -3.0, -3.0]] * 2)
    return Fused(jax.random.normal(jax.random.key(0), (2, 6, 24)), FUSED != NO_TOKEN, FUSED, prior)


def some_shares() -> tuple[jax.Array, MixtureLogWeights]:
    """Random logits, and shares as the head gives them."""
    head = decoder().copy
    assert head is not None
    hidden, keys = jax.random.normal(jax.random.key(1), (2, 3, 24)), jax.random.normal(jax.random.key(2), (2, 6, 8))
    logits = jax.random.normal(jax.random.key(4), (2, 3, 40))
    weights = jax.jit(lambda hidden, keys: head.mixture_log_weights(hidden, keys, FUSED, WRITTEN, dtype=jnp.float32))
    return logits, weights(hidden, keys)


def test_what_is_written_and_what_is_pointed_at_share_one_distribution() -> None:
    logits, shares = some_shares()
    np.testing.assert_allclose(jnp.exp(shares.vocabulary) + jnp.exp(shares.positions).sum(-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(jax.jit(mixture_log_probs)(logits, shares, FUSED)).sum(-1), 1.0, rtol=1e-5)


def test_the_mixture_is_what_its_definition_says() -> None:
    logits, shares = some_shares()
    expected = np.zeros((2, 3, 40))
    for row in range(2):
        for step in range(3):
            written = np.exp(np.asarray(logits[row, step], np.float64))
            expected[row, step] = written / written.sum() * np.exp(float(shares.vocabulary[row, step]))
            for place, token in enumerate(FUSED[row].tolist()):
                if token != NO_TOKEN:
                    expected[row, step, token] += np.exp(float(shares.positions[row, step, place]))
    np.testing.assert_allclose(np.exp(jax.jit(mixture_log_probs)(logits, shares, FUSED)), expected, rtol=1e-4)
    likelihood = np.take_along_axis(expected, np.asarray(ANSWERS)[..., None], -1)[..., 0]
    np.testing.assert_allclose(np.exp(mixture_log_likelihood(logits, shares, FUSED, ANSWERS)), likelihood, rtol=1e-4)


def test_neither_the_question_nor_padding_nor_special_tokens_are_copied() -> None:
    _, shares = some_shares()
    never = np.isin(FUSED, [NO_TOKEN, CONFIG.start_id, CONFIG.eos_id, CONFIG.pad_id])
    places = np.exp(np.asarray(shares.positions))
    assert (places.max(axis=1)[never] == 0).all()
    assert (places.min(axis=1)[~never] > 0).all()


def test_a_question_without_passages_is_left_to_the_vocabulary() -> None:
    own = decoder()
    hidden, nothing = jnp.zeros((1, 4, 24)), jnp.full((1, 4), NO_TOKEN)
    mask = jnp.zeros((1, 4), bool)
    logits = jax.jit(own.logits)(jnp.zeros((1, 2), jnp.int32), Fused(hidden, mask, nothing), TABLE)
    np.testing.assert_allclose(jnp.exp(logits).sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("onward", [False, True])
def test_cached_decoding_equals_teacher_forcing(onward: bool) -> None:
    own = decoder(copy_continuation_bias=onward)
    if own.copy is not None and own.copy.onward is not None:
        own.copy.onward.kernel[...] = jax.random.normal(jax.random.key(5), (24, 1))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 40, (2, 5)), jnp.int32)
    at_once, step = jax.jit(own.logits)(tokens, fused(), TABLE), jax.jit(own.step)
    cross, cache, steps = jax.jit(own.cross)(fused()), own.empty_cache(2, 2, 5), []
    for position in range(5):
        pair = jnp.broadcast_to(tokens[:, position, None], (2, 2))
        logits, cache = step(pair, jnp.int32(position), cache, cross, TABLE)
        steps.append(logits[:, 0])
    np.testing.assert_allclose(jnp.stack(steps, axis=1), at_once, atol=2e-5)


def test_gradients_of_the_likelihood_are_those_of_finite_differences() -> None:
    graph, state = nnx.split(decoder(copy_continuation_bias=True))
    inputs = jnp.concatenate([jnp.zeros((2, 1), jnp.int32), ANSWERS[:, :-1]], axis=1)

    @jax.jit
    def loss(copy: Any) -> jax.Array:
        module = nnx.merge(graph, {**state, "copy": copy})
        taught = module.teach(inputs, fused(), TABLE)
        assert taught.mixture is not None
        return mixture_log_likelihood(taught.logits, taught.mixture, FUSED, ANSWERS).sum()

    own = state["copy"]
    gradient = jax.grad(loss)(own)
    for number, (path, slope) in enumerate(nnx.to_flat_state(gradient)):
        direction = np.random.default_rng(number).normal(size=slope.shape)
        expected = float((np.asarray(slope[...]) * direction).sum())

        def moved(distance: float, path: Any = path, direction: Any = direction) -> float:
            flat = dict(nnx.to_flat_state(own))
            flat[path] = flat[path].replace(flat[path][...] + distance * direction)
            return float(loss(nnx.from_flat_state(flat)))

        assert (moved(1e-2) - moved(-1e-2)) / 2e-2 == pytest.approx(expected, rel=2e-2, abs=2e-4), path


def test_fused_tokens_stand_where_their_hidden_states_do() -> None:
    lengths = Lengths(jnp.asarray([2]), jnp.asarray([[3, 0]]))
    tokens = jnp.asarray([[[5, 6, 7], [8, 8, 8]]])
    laid_out = fused_tokens(tokens, lengths.passages, 2)
    np.testing.assert_array_equal(laid_out, [[-1, -1, 5, 6, 7, -1, -1, -1, -1, -1]])
    mask = fuse(jnp.zeros((1, 2, 5, 4)), lengths, 2).mask
    assert laid_out.shape == mask.shape
    assert not np.any(np.asarray(laid_out != NO_TOKEN) & ~np.asarray(mask))


def test_by_score_a_place_counts_by_its_passages_share() -> None:
    """Equal places: the mass of a passage's is softmax(score) of its own, and an absent passage has none."""
    prior = fused_prior(jnp.asarray([[2.0, 1.0, -jnp.inf]]), 2)
    head = decoder().copy
    assert head is not None
    tokens = jnp.asarray([[7, 8, 9, 10, NO_TOKEN, NO_TOKEN]])
    written = jnp.zeros((1, 1), jnp.int32)
    shares = head.mixture_log_weights(
        jnp.zeros((1, 1, 24)), jnp.zeros((1, 6, 8)), tokens, written, prior, dtype=jnp.float32
    )
    first, second, absent = np.exp(np.asarray(shares.positions)).reshape(3, 2).sum(axis=1)
    assert first / second == pytest.approx(math.e, rel=1e-5)
    assert absent == 0
    assert np.isfinite(np.asarray(prior)).all()


def test_going_on_adds_one_number_to_the_places_that_follow_the_word_just_written() -> None:
    """After 7 those are the 3 and the 1 (a special token, never copied); after 30, which stands nowhere, none is."""
    head, plain = decoder(copy_continuation_bias=True).copy, decoder(copy_continuation_bias=True).copy
    assert head is not None
    assert plain is not None
    assert head.onward is not None
    assert head.onward.bias is not None
    head.onward.bias[...] = jnp.asarray([2.5])
    hidden, keys = jax.random.normal(jax.random.key(1), (2, 3, 24)), jax.random.normal(jax.random.key(2), (2, 6, 8))

    def scores(own: CopyHead) -> np.ndarray:
        shares = own.mixture_log_weights(hidden, keys, FUSED, WRITTEN, dtype=jnp.float32)
        return np.asarray(shares.positions - shares.vocabulary[..., None])

    added = scores(head) - scores(plain)
    expected = np.zeros((2, 3, 6))
    expected[0, 1, [2]] = expected[0, 2, 3] = 2.5  # 7 3 and 3 7; the 1 after the second 7 is special
    np.testing.assert_allclose(np.where(scores(plain) < -1e8, 0.0, added), expected, atol=1e-5)


def test_a_decoder_that_copies_wants_to_know_what_stands_in_the_passages() -> None:
    own, blind = decoder(), fused()._replace(tokens=None)
    with pytest.raises(ValueError, match="tokens"):
        own.logits(jnp.zeros((2, 2), jnp.int32), blind, TABLE)
    with pytest.raises(ValueError, match="tokens"):
        own.cross(blind)


def test_copying_needs_the_passages_vocabulary(reader_config: ReaderConfig) -> None:
    other = replace(reader_config.decoder, vocab_size=31, shared_embedding=False, copy_width=8)
    with pytest.raises(ModelError, match="copy_width"):
        replace(reader_config, decoder=other)
    with pytest.raises(ModelError, match="copy_by_score"):
        replace(CONFIG, copy_width=0, copy_by_score=True)
    with pytest.raises(ModelError, match="copy_continuation_bias"):
        replace(CONFIG, copy_width=0, copy_continuation_bias=True)


def test_the_configuration_keeps_it_and_files_of_before_have_none() -> None:
    assert DecoderConfig.from_json(CONFIG.to_json()) == CONFIG
    older = {key: value for key, value in CONFIG.to_json().items() if not key.startswith("copy_")}
    assert DecoderConfig.from_json(older) == replace(CONFIG, copy_width=0)


@pytest.fixture
def reader_config() -> ReaderConfig:
    encoder = BertConfig(
        vocab_size=40,
        d_model=24,
        d_ff=32,
        num_heads=4,
        d_kv=6,
        num_layers=2,
        layer_norm_eps=1e-12,
        max_positions=32,
        type_vocab_size=2,
    )
    return ReaderConfig(encoder=encoder, memory_layers=1, live_a_layers=0, live_b_layers=1, decoder=CONFIG)


def test_a_model_of_version_0_1_names_the_continuation_bias_by_its_old_key() -> None:
    written = CONFIG.to_json() | {"copy_continuation_bias": True}
    old = {"copy_onward" if key == "copy_continuation_bias" else key: value for key, value in written.items()}
    assert DecoderConfig.from_json(old) == DecoderConfig.from_json(written)
    with pytest.raises(ModelError, match="copy_onward"):
        DecoderConfig.from_json({**old, "copy_continuation_bias": True})
