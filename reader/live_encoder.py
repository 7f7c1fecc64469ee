"""The live encoder: the upper layers of the encoder, run on [question; memory] of each candidate passage.

LUMEN (arXiv 2301.10448) prepends the question's own representation to every passage's memory and runs the live layers
over both, so that the passage is read with the question in mind. GLIMMER (2306.10231) cuts those layers in two. Nothing
here is specific to a family: any `LayeredEncoder` will do.

Rows are laid out at fixed widths, the question's Sq places and then the passage's L. Padding between the two is masked
and skipped by the positions: the passage continues where the question ends, as if they had been written together. That
makes a reader without memory layers exactly FiD.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..encoders.layered import LayeredEncoder

CPU_TOKENS = 1024


class Lengths(NamedTuple):
    """How much of each row is real: `question` int32 [B], `passages` int32 [B,m]; a passage of 0 is an absent one."""

    question: jax.Array
    passages: jax.Array


def take_rows(values: jax.Array, index: jax.Array) -> jax.Array:
    """values [B,N,...] and index int32 [B,K] -> [B,K,...]: the rows `index` of every question."""
    places = index.reshape(*index.shape, *(1 for _ in values.shape[2:]))
    return jnp.take_along_axis(values, places, axis=1)


def join(question: jax.Array, memory: jax.Array) -> jax.Array:
    """question [B,Sq,D] before each of memory [B,m,L,D] -> float32 [B,m,Sq+L,D]."""
    batch, candidates, _, width = memory.shape
    repeated = jnp.broadcast_to(question[:, None], (batch, candidates, question.shape[1], width))
    return jnp.concatenate([repeated.astype(jnp.float32), memory.astype(jnp.float32)], axis=2)


def row_mask(lengths: Lengths, question_width: int, passage_width: int) -> jax.Array:
    """bool [B,m,Sq+L]: True at real tokens; an absent passage hides its copy of the question too."""
    present = lengths.passages[:, :, None] > 0
    question = jnp.arange(question_width) < lengths.question[:, None, None]
    passage = jnp.arange(passage_width) < lengths.passages[:, :, None]
    return jnp.concatenate([jnp.broadcast_to(question & present, (*present.shape[:2], question_width)), passage], 2)


def row_positions(lengths: Lengths, question_width: int, passage_width: int) -> jax.Array:
    """int32 [B,Sq+L]: 0..Sq-1 over the question, then the passage from the question's length on."""
    question = jnp.broadcast_to(jnp.arange(question_width), (lengths.question.shape[0], question_width))
    passage = lengths.question[:, None] + jnp.arange(passage_width)
    return jnp.concatenate([question, passage], axis=1).astype(jnp.int32)


def run_live(
    encoder: LayeredEncoder,
    hidden: jax.Array,
    lengths: Lengths,
    start: int,
    stop: int,
    *,
    question_width: int,
    dropout_rate: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Layers [start, stop) over `hidden` float32 [B,m,Sq+L,D] -> the same shape.

    Where a question's rows are few, or the device is an accelerator, all rows are one batch (no vmap over questions: a
    product's gradient for its weights would be made question by question, at a third of the speed). Else rows go
    through all the layers in groups of one question's, one group after the other.
    """
    if start == stop:
        return hidden
    batch, candidates, width, _ = hidden.shape
    mask = row_mask(lengths, question_width, width - question_width)
    positions = row_positions(lengths, question_width, width - question_width)
    size = group_size(candidates, width)
    groups = candidates // size
    if groups == 1:
        context = encoder.context(mask.reshape(batch * candidates, width), positions)
        rows = hidden.reshape(batch * candidates, width, -1)
        return encoder.run(rows, context, start, stop, dropout_rate=dropout_rate, key=key).reshape(hidden.shape)

    def one(group: tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
        rows, seen, places, own = group
        context = encoder.context(seen, places[None])
        return encoder.run(rows, context, start, stop, dropout_rate=dropout_rate, key=own)

    inputs = (
        hidden.reshape(batch * groups, size, width, -1),
        mask.reshape(batch * groups, size, width),
        jnp.repeat(positions, groups, axis=0),
        None if key is None else jax.random.split(key, batch * groups),
    )
    mapped: jax.Array = jax.lax.map(one, inputs)
    return mapped.reshape(hidden.shape)


def group_size(candidates: int, width: int, platform: str | None = None) -> int:
    """How many rows of `width` tokens run at a time: on CPUs the most that divide `candidates` within 1,024 tokens.

    More rows leave the processor's cache between two layers: 40 rows of 240 tokens took 1.35 times as long as 10 times
    four. `platform` defaults to the process's JAX backend; anything but CPU runs all at once.
    """
    if (platform or jax.default_backend()) != "cpu":
        return candidates
    most = max(1, CPU_TOKENS // width)
    return max(size for size in range(1, candidates + 1) if candidates % size == 0 and size <= most)
