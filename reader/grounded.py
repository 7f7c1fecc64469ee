"""Grounded decoding: the answer is a run of tokens that occurs in the selected passages, so it can be pointed at.

The state is one bit per passage position: could the next token of this answer be the one that stands there? At first
every position qualifies; after each token only the positions that follow a match. The tokens at the qualifying
positions are the ones the decoder may write, and the end of the answer once it has one token and a word is complete.
Everything is fixed-shape and runs inside the decoding loop, for greedy and beam search alike. Passages and answer must
be in one vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import MismatchError
from ..encoders.tokenizers import Tokenizer, WordParts
from .config import ReaderConfig
from .live_encoder import take_rows

_CAPITALS = "Paris, London and New York"


class Grounding(NamedTuple):
    """What answers may be taken from; L is one place more than the passages' width, which no token ever takes.

    `tokens` int32 [B,k,L]; `usable` bool [B,k,L] (padding and specials False); `inside` bool [B,k,L]: this place goes
    on with the word of the place before, so that an answer may neither begin here nor end just before.
    """

    tokens: jax.Array
    usable: jax.Array
    inside: jax.Array


def check_groundable(config: ReaderConfig) -> None:
    """MismatchError unless decoder and encoder share one vocabulary."""
    if not config.decoder.shared_embedding and config.decoder.vocab_size != config.encoder.vocab_size:
        raise MismatchError(
            f"grounded answers need one vocabulary for passages and answers, but the encoder has "
            f"{config.encoder.vocab_size} tokens and the decoder {config.decoder.vocab_size}: decode without --grounded"
        )


def decodes_grounded(config: ReaderConfig, tokenizer: Tokenizer) -> bool:
    """Whether answers are grounded unless asked otherwise: where the tokenizer loses upper case, and they can be.

    A grounded answer is written as its passage has it; what such a tokenizer decodes to is in lower case throughout.
    """
    decoded = tokenizer.decode(tokenizer.encode_plain([_CAPITALS])[0])
    if any(character.isupper() for character in decoded):
        return False
    return config.decoder.shared_embedding or config.decoder.vocab_size == config.encoder.vocab_size


def grounding(
    tokens: jax.Array,
    lengths: jax.Array,
    *,
    specials: Sequence[int],
    words: WordParts | None = None,
    chosen: jax.Array | None = None,
) -> Grounding:
    """Passages as the decoding loop wants them.

    `tokens` int32 [B,m,L] (what the encoder read), `lengths` int32 [B,m]; `specials` are token ids that never belong to
    an answer (end of text, [CLS], unknown); `words` tells where words begin (None: everywhere); `chosen` int32 [B,k]
    keeps the selected candidates only.
    """
    if chosen is not None:
        tokens, lengths = take_rows(tokens, chosen), take_rows(lengths, chosen)
    tokens = jnp.pad(tokens, ((0, 0), (0, 0), (0, 1)))
    usable = jnp.arange(tokens.shape[2]) < lengths[:, :, None]
    for special in sorted(set(specials)):
        usable &= tokens != special
    inside = jnp.zeros_like(usable)
    if words is not None:
        before = jnp.pad(jnp.asarray(words.can_be_continued)[tokens] & usable, ((0, 0), (0, 0), (1, 0)))[..., :-1]
        inside = usable & jnp.asarray(words.is_continuation)[tokens] & before
    return Grounding(tokens, usable, inside)


def first_matches(ground: Grounding, rows: int) -> jax.Array:
    """The state before the first token, for `rows` answers a question: bool [B,N,k,L]."""
    batch, passages, length = ground.usable.shape
    return jnp.broadcast_to((ground.usable & ~ground.inside)[:, None], (batch, rows, passages, length))


def allowed(ground: Grounding, matches: jax.Array, vocabulary: int) -> jax.Array:
    """Which tokens may come next: matches bool [B,N,k,L] -> bool [B,N,V]."""
    batch, rows = matches.shape[:2]
    flat = (matches & ground.usable[:, None]).reshape(batch, rows, -1)
    tokens = jnp.broadcast_to(ground.tokens.reshape(batch, 1, -1), flat.shape)
    target = jnp.where(flat, tokens, vocabulary)  # one past the end: dropped
    question = jnp.arange(batch)[:, None, None]
    row = jnp.arange(rows)[None, :, None]
    return jnp.zeros((batch, rows, vocabulary), bool).at[question, row, target].set(True, mode="drop")


def may_end(ground: Grounding, matches: jax.Array) -> jax.Array:
    """Whether the answer so far ends with a word somewhere: matches bool [B,N,k,L] after a token -> bool [B,N]."""
    return (matches & ~ground.inside[:, None]).any(axis=(2, 3))


def advance(ground: Grounding, matches: jax.Array, tokens: jax.Array) -> jax.Array:
    """The state after writing tokens int32 [B,N]: places that follow a matched occurrence of them."""
    hit = matches & ground.usable[:, None] & (ground.tokens[:, None] == tokens[:, :, None, None])
    return jnp.pad(hit[..., :-1], ((0, 0), (0, 0), (0, 0), (1, 0)))


def find_spans(answer: np.ndarray, passages: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Where an answer's tokens occur: (passage, first token) pairs, passages in the given order. On the host."""
    answer = np.asarray(answer)
    found: list[tuple[int, int]] = []
    if answer.size == 0:
        return found
    for number, passage in enumerate(passages):
        tokens = np.asarray(passage)
        if tokens.size >= answer.size:
            windows = np.lib.stride_tricks.sliding_window_view(tokens, answer.size)
            found += [(number, int(start)) for start in np.flatnonzero((windows == answer).all(axis=1))]
    return found
