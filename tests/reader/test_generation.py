"""Decoding: beam search keeps its promises, neighbours do not matter, forced lengths are exact.

That greedy and beam answers are Hugging Face's, token for token, is test_model_fid_parity.py.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glimmer import UsageError
from glimmer.reader.config import DecoderConfig
from glimmer.reader.decoder import Decoder
from glimmer.reader.fusion import Fused
from glimmer.reader.generation import Generated, GenerationConfig, generate

EOS, VOCABULARY, LONGEST = 1, 6, 8


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    config = DecoderConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        d_ff=32,
        num_heads=2,
        kv_heads=2,
        d_kv=8,
        num_layers=2,
        shared_embedding=False,
    )
    made = Decoder(config, memory_width=16, rngs=nnx.Rngs(4))
    assert made.lm_head is not None
    made.lm_head.kernel[...] = made.lm_head.kernel[...] * 3
    return made


MEMORY = np.random.default_rng(1).normal(size=(3, 5, 16)).astype(np.float32)


@functools.cache
def compiled(decoder: Decoder, config: GenerationConfig) -> Callable[[jax.Array], Generated]:
    def search(memory: jax.Array) -> Generated:
        return generate(decoder, None, decoder.cross(Fused(memory, jnp.ones(memory.shape[:2], bool))), config)

    return jax.jit(search)


def run(decoder: Decoder, memory: np.ndarray = MEMORY, **settings: Any) -> Generated:
    return compiled(decoder, GenerationConfig(**settings))(jnp.asarray(memory))


@functools.cache
def scorer(decoder: Decoder) -> Callable[..., jax.Array]:
    def score(memory: jax.Array, answers: jax.Array, lengths: jax.Array) -> jax.Array:
        inputs = jnp.pad(answers[:, :-1], ((0, 0), (1, 0)))
        many = jnp.broadcast_to(memory, (len(answers), *memory.shape))
        logits = decoder.logits(inputs, Fused(many, jnp.ones(many.shape[:2], bool)), None)
        gained = jnp.take_along_axis(jax.nn.log_softmax(logits), answers[..., None], axis=-1)[..., 0]
        return jnp.where(jnp.arange(LONGEST) < lengths[:, None], gained, 0.0).sum(axis=-1)

    return jax.jit(score)


def log_probabilities(decoder: Decoder, row: int, answers: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
    """What teacher forcing says of each answer to question `row`."""
    padded = np.zeros((-(-len(answers) // 256) * 256, LONGEST), np.int32)
    for place, answer in zip(padded, answers, strict=False):
        place[: len(answer)] = answer
    lengths = np.zeros(len(padded), np.int32)
    lengths[: len(answers)] = [len(answer) for answer in answers]
    scores = scorer(decoder)(jnp.asarray(MEMORY[row]), jnp.asarray(padded), jnp.asarray(lengths))
    return dict(zip(answers, np.asarray(scores).tolist(), strict=False))


def written(out: Generated, row: int, beam: int = 0) -> tuple[int, ...]:
    tokens = tuple(np.asarray(out.tokens[row, beam]).tolist())
    return tokens[: tokens.index(EOS) + 1] if EOS in tokens else tokens


def test_greedy_takes_the_likeliest_token_each_time(decoder: Decoder) -> None:
    out = run(decoder, max_new_tokens=6)
    for row in range(3):
        answer = written(out, row)
        for place in range(len(answer)):
            rivals = log_probabilities(decoder, row, [(*answer[:place], token) for token in range(VOCABULARY)])
            assert max(rivals, key=rivals.__getitem__) == answer[: place + 1]
        expected = log_probabilities(decoder, row, [answer])[answer]
        assert float(out.log_probs[row, 0]) == pytest.approx(expected, abs=1e-4)


def test_wide_beams_find_the_best_of_all_answers(decoder: Decoder) -> None:
    out = run(decoder, max_new_tokens=3, beams=VOCABULARY**2, length_penalty=0.0, early_stopping="never")
    others = [token for token in range(VOCABULARY) if token != EOS]
    for row in range(3):
        every = [(*head, EOS) for n in range(3) for head in itertools.product(others, repeat=n)]
        every += list(itertools.product(others, repeat=3))
        scores = log_probabilities(decoder, row, every)
        best = sorted(scores, key=scores.__getitem__, reverse=True)[:5]
        assert [written(out, row, beam) for beam in range(5)] == best
        np.testing.assert_allclose(out.log_probs[row, :5], [scores[answer] for answer in best], atol=1e-4)


def test_lengths_and_scores_describe_the_answer(decoder: Decoder) -> None:
    out = run(decoder, max_new_tokens=5, beams=3, length_penalty=0.7)
    for row, beam in itertools.product(range(3), range(3)):
        answer = written(out, row, beam)
        assert int(out.lengths[row, beam]) == len(answer) - (answer[-1] == EOS)
        expected = log_probabilities(decoder, row, [answer])[answer]
        assert float(out.log_probs[row, beam]) == pytest.approx(expected, abs=1e-4)
        assert float(out.scores[row, beam]) == pytest.approx(expected / len(answer) ** 0.7, abs=1e-4)
        assert (np.asarray(out.tokens[row, beam])[len(answer) :] == 0).all()
    assert (np.diff(np.asarray(out.scores), axis=1) <= 0).all()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("early", [False, True])
def test_what_else_is_in_the_batch_does_not_matter(decoder: Decoder, beams: int, early: bool) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 8, "beams": beams, "early_stopping": early}
    together = run(decoder, **settings)
    for row in range(3):
        for place in range(3):
            strangers = np.random.default_rng(place).normal(size=MEMORY.shape).astype(np.float32) * 2
            strangers[place] = MEMORY[row]
            moved = run(decoder, strangers, **settings)
            np.testing.assert_array_equal(moved.tokens[place], together.tokens[row])
            np.testing.assert_array_equal(moved.log_probs[place], together.log_probs[row])


@pytest.mark.parametrize("beams", [1, 2])
def test_fixed_steps_writes_exactly_that_many_tokens(decoder: Decoder, beams: int) -> None:
    out = compiled(decoder, GenerationConfig.fixed_steps(7, beams=beams))(jnp.asarray(MEMORY))
    assert (np.asarray(out.lengths) == 7).all()
    assert EOS not in np.asarray(out.tokens)


def test_a_minimum_only_forbids_an_early_end(decoder: Decoder) -> None:
    out = run(decoder, max_new_tokens=8, min_new_tokens=3)
    assert (np.asarray(out.lengths) >= 3).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"beams": 0},
        {"max_new_tokens": 0},
        {"max_new_tokens": 4, "min_new_tokens": 5},
        {"early_stopping": "soon"},
        {"grounded": True, "min_new_tokens": 4},
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        GenerationConfig(**settings)
