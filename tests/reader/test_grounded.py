"""Grounded decoding: every answer stands in a selected passage, word for word, and can be pointed at."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glimmer import MismatchError
from glimmer.encoders.families.t5 import T5Config
from glimmer.encoders.tokenizers import WordParts
from glimmer.reader.config import DecoderConfig, ReaderConfig
from glimmer.reader.decoder import Decoder
from glimmer.reader.fusion import Fused
from glimmer.reader.generation import Generated, GenerationConfig, generate
from glimmer.reader.grounded import (
    Grounding,
    advance,
    allowed,
    check_groundable,
    find_spans,
    first_matches,
    grounding,
    may_end,
)

EOS, VOCABULARY, UNKNOWN = 1, 30, 2
rng = np.random.default_rng(3)
PASSAGES = rng.integers(3, 9, (2, 3, 12)).astype(np.int32)  # few words, so that they repeat
PASSAGES[0, 0, 5] = UNKNOWN
LENGTHS = np.array([[12, 7, 4], [9, 0, 1]], np.int32)
PASSAGES[0, 1, 6] = EOS
GROUND = grounding(jnp.asarray(PASSAGES), jnp.asarray(LENGTHS), specials=(0, EOS, UNKNOWN))


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
    return Decoder(config, memory_width=16, rngs=nnx.Rngs(4))


@functools.cache
def compiled(decoder: Decoder, beams: int) -> Callable[[jax.Array, Grounding], Generated]:
    config = GenerationConfig(max_new_tokens=6, beams=beams, grounded=True)

    def search(memory: jax.Array, ground: Grounding) -> Generated:
        return generate(decoder, None, decoder.cross(Fused(memory, jnp.ones((2, 5), bool))), config, ground)

    return jax.jit(search)


def answer(decoder: Decoder, beams: int, seed: int) -> Generated:
    return compiled(decoder, beams)(jax.random.normal(jax.random.key(seed), (2, 5, 16)), GROUND)


def real_passages(row: int) -> list[np.ndarray]:
    return [tokens[:length] for tokens, length in zip(PASSAGES[row], LENGTHS[row], strict=True)]


@pytest.mark.parametrize("beams", [1, 4])
def test_every_answer_occurs_in_a_passage(decoder: Decoder, beams: int) -> None:
    seen = set()
    for seed in range(6):
        out = answer(decoder, beams, seed)
        for row in range(2):
            for beam in range(beams):
                tokens = np.asarray(out.tokens[row, beam])[: int(out.lengths[row, beam])]
                if float(out.log_probs[row, beam]) > -1e8:
                    assert tokens.size >= 1
                    assert find_spans(tokens, real_passages(row)), (row, tokens)
                    assert not {0, EOS, UNKNOWN} & set(tokens.tolist())
                    seen.add(tuple(tokens.tolist()))
    assert len(seen) > 5
    assert max(map(len, seen)) > 1


def test_allowed_tokens_are_those_that_follow_an_occurrence() -> None:
    matches = first_matches(GROUND, 1)
    text: list[int] = []
    for _ in range(4):
        expected = set()
        for passage in real_passages(0):
            for start in range(len(passage) - len(text)):
                window = passage[start : start + len(text) + 1].tolist()
                if window[:-1] == text and not {0, EOS, UNKNOWN} & set(window):
                    expected.add(window[-1])
        found = set(np.flatnonzero(np.asarray(allowed(GROUND, matches, VOCABULARY))[0, 0]).tolist())
        assert found == expected
        if not expected:
            break
        text.append(min(expected))
        matches = advance(GROUND, matches, jnp.full((2, 1), text[-1], jnp.int32))


def test_an_answer_never_runs_from_one_passage_into_the_next() -> None:
    ground = grounding(jnp.asarray([[[5, 6], [7, 8]]]), jnp.asarray([[2, 2]]), specials=())
    matches = first_matches(ground, 1)
    for token in (5, 6):
        matches = advance(ground, matches, jnp.asarray([[token]]))
    assert not np.asarray(allowed(ground, matches, VOCABULARY)).any()
    assert np.asarray(may_end(ground, matches)).all()


def test_answers_begin_and_end_with_words() -> None:
    """Tokens 20 and above go on with a word, but not after 10, which closes one; the last word runs to the end."""
    words = WordParts(np.arange(VOCABULARY) >= 20, np.arange(VOCABULARY) != 10)
    text = [5, 20, 21, 6, 10, 22, 7, 23]
    ground = grounding(jnp.asarray([[text]]), jnp.asarray([[len(text)]]), specials=(), words=words)
    state = first_matches(ground, 1)
    assert set(np.flatnonzero(allowed(ground, state, VOCABULARY)[0, 0]).tolist()) == {5, 6, 10, 22, 7}
    ends = []
    for token in text:
        state = advance(ground, state, jnp.asarray([[token]]))
        ends.append(bool(may_end(ground, state)[0, 0]))
    assert ends == [False, False, True, True, True, True, False, True]


@pytest.mark.parametrize("beams", [1, 4])
def test_a_search_ends_with_a_word_or_where_it_is_cut(decoder: Decoder, beams: int) -> None:
    words = WordParts(np.arange(VOCABULARY) >= 6, np.ones(VOCABULARY, np.bool_))
    ground = grounding(jnp.asarray(PASSAGES), jnp.asarray(LENGTHS), specials=(0, EOS, UNKNOWN), words=words)
    for seed in range(4):
        out = compiled(decoder, beams)(jax.random.normal(jax.random.key(seed), (2, 5, 16)), ground)
        for row in range(2):
            tokens = np.asarray(out.tokens[row, 0])[: int(out.lengths[row, 0])]
            if tokens.size == 0:
                continue
            passages = real_passages(row)
            assert any(
                not ground.inside[row, number, start]
                and (tokens.size == 6 or not ground.inside[row, number, start + tokens.size])
                for number, start in find_spans(tokens, passages)
            )


def test_passages_without_a_usable_token_give_an_empty_answer(decoder: Decoder) -> None:
    ground = grounding(jnp.zeros((2, 3, 12), jnp.int32), jnp.zeros((2, 3), jnp.int32), specials=())
    for beams in (1, 4):
        out = compiled(decoder, beams)(jnp.zeros((2, 5, 16)), ground)
        assert (np.asarray(out.lengths[:, 0]) == 0).all()
        assert np.isfinite(np.asarray(out.log_probs)).all()


def test_only_selected_candidates_count() -> None:
    chosen = jnp.asarray([[2, 0], [2, 1]], jnp.int32)
    picked = grounding(jnp.asarray(PASSAGES), jnp.asarray(LENGTHS), specials=(), chosen=chosen)
    np.testing.assert_array_equal(picked.tokens[0, :, :-1], PASSAGES[0, [2, 0]])
    np.testing.assert_array_equal(np.asarray(picked.usable).sum(-1), [[4, 12], [1, 0]])


def test_spans_say_where() -> None:
    passages = [np.array([4, 5, 4, 5]), np.array([9]), np.array([5])]
    assert find_spans(np.array([4, 5]), passages) == [(0, 0), (0, 2)]
    assert find_spans(np.array([5]), passages) == [(0, 1), (0, 3), (2, 0)]
    assert find_spans(np.array([], np.int32), passages) == []


def test_another_vocabulary_is_refused() -> None:
    encoder = T5Config(
        vocab_size=50,
        d_model=16,
        d_ff=16,
        num_heads=2,
        d_kv=8,
        num_layers=1,
        layer_norm_eps=1e-6,
        relative_buckets=32,
        relative_max_distance=128,
    )
    decoder = DecoderConfig(
        vocab_size=30, d_model=16, d_ff=16, num_heads=2, kv_heads=2, d_kv=8, num_layers=1, shared_embedding=False
    )
    config = ReaderConfig(encoder=encoder, decoder=decoder, memory_layers=0, live_a_layers=0, live_b_layers=1)
    with pytest.raises(MismatchError, match="one vocabulary"):
        check_groundable(config)
