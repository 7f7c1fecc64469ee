"""The arithmetic that `estimate` promises is what the compiler counts in the compiled stages of a whole reader.

XLA counts two operations for a multiply-add, and a loop's body once: one decoding step is compared, and what the live
layers run group by group is multiplied by the number of groups. It counts norms, softmax, GELU and masks too, which
`stage_costs` leaves out: a few per cent at these widths, hence the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from glimmer.pipelines.capacity.costs import StageCosts, stage_costs
from glimmer.pipelines.capacity.estimate import t5_config
from glimmer.reader.config import ReaderConfig
from glimmer.reader.fusion import Fused
from glimmer.reader.generation import GenerationConfig
from glimmer.reader.live_encoder import Lengths, group_size
from glimmer.reader.model import Candidates, Reader

QUESTION, PASSAGE, CANDIDATES, SELECTED = 16, 128, 8, 3


def abstract(*shape: int, dtype: Any = jnp.float32) -> Any:
    """A `jax.ShapeDtypeStruct`, which stands for an array in everything that is only lowered."""
    return jax.ShapeDtypeStruct(shape, dtype)


def operations(function: Callable[..., Any], *arguments: Any) -> float:
    analysis = jax.jit(function).lower(*arguments).compile().cost_analysis()
    assert analysis is not None
    return float(analysis["flops"])


@pytest.fixture(scope="module")
def config() -> ReaderConfig:
    return t5_config("t5-small", alpha=0.5, beta=1 / 3)


@pytest.fixture(scope="module")
def expected(config: ReaderConfig) -> StageCosts:
    return stage_costs(
        config,
        question_tokens=QUESTION,
        passage_tokens=PASSAGE,
        candidates=CANDIDATES,
        selected=SELECTED,
        answer_tokens=1,
    )


def test_every_stage_of_a_glimmer_reader_costs_what_is_promised(config: ReaderConfig, expected: StageCosts) -> None:
    assert (config.memory_layers, config.live_a_layers, config.live_b_layers) == (4, 1, 3)
    reader = Reader(config, dtype=jnp.float32)
    params = jax.eval_shape(lambda: reader.init(0))
    width, d = QUESTION + PASSAGE, config.encoder.d_model
    asked = abstract(1, QUESTION, dtype=jnp.int32)
    lengths = Lengths(abstract(1, dtype=jnp.int32), abstract(1, CANDIDATES, dtype=jnp.int32))

    question = operations(reader.question, params, asked, lengths.question)
    assert question == pytest.approx(2 * expected.question, rel=0.1)

    memory, encoded = abstract(1, CANDIDATES, PASSAGE, d), abstract(1, QUESTION, d)
    live_a = operations(reader.live_a, params, encoded, memory, lengths)
    live_a *= CANDIDATES // group_size(CANDIDATES, width)
    assert live_a == pytest.approx(2 * (expected.live_a + expected.rerank), rel=0.1)

    candidates = Candidates(abstract(1, CANDIDATES, width, d), abstract(1, CANDIDATES))
    chosen = abstract(1, SELECTED, dtype=jnp.int32)

    def live_b(params: Any, candidates: Candidates, lengths: Lengths, chosen: jax.Array) -> Fused:
        return reader.live_b(params, candidates.hidden, lengths, chosen, question_width=QUESTION)

    counted = SELECTED // group_size(SELECTED, width) * operations(live_b, params, candidates, lengths, chosen)
    assert counted == pytest.approx(2 * expected.live_b, rel=0.1)

    fused = Fused(abstract(1, SELECTED * width, d), abstract(1, SELECTED * width, dtype=jnp.bool_))
    decode = operations(lambda p, f: reader.answer(p, f, GenerationConfig.fixed_steps(1)), params, fused)
    assert decode == pytest.approx(2 * (expected.cross_memory + expected.decode), rel=0.1)
