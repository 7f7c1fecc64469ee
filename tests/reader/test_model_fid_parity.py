"""A reader whose layers are all live is FiD: equal to Hugging Face's T5 1.1 on the same random weights, in float32.

The goldens (tests/goldens/make_reader_goldens.py) hold what `T5ForConditionalGeneration` makes of three questions with
up to four passages each, with every kind of padding: states of the encoder, first-step logits, greedy and beam answers.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glimmer.encoders.families.t5 import T5Config
from glimmer.reader.config import DecoderConfig, ReaderConfig
from glimmer.reader.fusion import Fused
from glimmer.reader.generation import GenerationConfig
from glimmer.reader.live_encoder import Lengths
from glimmer.reader.model import Params, Reader

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"


def load_weights_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reader_weights", GOLDENS / "reader_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reader_weights"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


weights = load_weights_module()


class Fid:
    """The reader under test with the golden weights, what it was given and what it should say."""

    def __init__(self, shape: Any) -> None:
        encoder = T5Config(
            vocab_size=weights.VOCABULARY,
            d_model=shape.d_model,
            d_ff=shape.d_ff,
            num_heads=shape.heads,
            d_kv=shape.d_kv,
            num_layers=shape.layers,
            layer_norm_eps=1e-6,
            relative_buckets=32,
            relative_max_distance=128,
            gated=True,
        )
        decoder = DecoderConfig(
            vocab_size=weights.VOCABULARY,
            d_model=shape.d_model,
            d_ff=shape.d_ff,
            num_heads=shape.heads,
            kv_heads=shape.heads,
            d_kv=shape.d_kv,
            num_layers=shape.layers,
        )
        config = ReaderConfig(
            encoder=encoder, memory_layers=0, live_a_layers=0, live_b_layers=shape.layers, decoder=decoder
        )
        self.reader = Reader(config, dtype=jnp.float32)
        self.params: Params = self.reader.params(weights.random_tensors(shape))
        self.golden = np.load(GOLDENS / f"reader_fid_{shape.name}.npz")
        self.stride = shape.d_model // 32
        self.fused: Fused = self._encode()

    def _encode(self) -> Fused:
        data, reader = weights.inputs(), self.reader
        lengths = Lengths(jnp.asarray(data.question_lengths), jnp.asarray(data.passage_lengths))

        @jax.jit
        def run(params: Params) -> Fused:
            question = reader.question(params, jnp.asarray(data.question), lengths.question)
            memory = reader.memory(params, jnp.asarray(data.passages), lengths.passages)
            candidates = reader.live_a(params, question, memory, lengths)
            assert candidates.scores is None
            return reader.live_b(params, candidates.hidden, lengths, question_width=data.question.shape[1])

        return run(self.params)


@pytest.fixture(scope="module", params=["small", pytest.param("base", marks=pytest.mark.slow)])
def fid(request: pytest.FixtureRequest) -> Fid:
    return Fid({"small": weights.SMALL, "base": weights.BASE}[request.param])


def test_encoder_outputs_are_those_of_t5(fid: Fid) -> None:
    ours = np.asarray(fid.fused.hidden)[np.asarray(fid.fused.mask)][:, :: fid.stride]
    np.testing.assert_allclose(ours, fid.golden["states"], atol=1e-4, rtol=0)


def test_first_step_logits_are_those_of_t5(fid: Fid) -> None:
    answers = jnp.zeros((fid.fused.hidden.shape[0], 1), jnp.int32)
    logits = jax.jit(fid.reader.logits)(fid.params, fid.fused, answers)
    np.testing.assert_allclose(np.asarray(logits)[:, 0, ::16], fid.golden["first_logits"], atol=1e-4, rtol=0)


def test_greedy_and_beam_answers_are_those_of_t5(fid: Fid) -> None:
    searches = ((1, 1.0, False), *weights.SEARCHES)
    lengths_seen = set()
    for (beams, penalty, early), expected in zip(searches, fid.golden["answers"], strict=True):
        config = GenerationConfig(
            max_new_tokens=weights.MAX_NEW_TOKENS, beams=beams, length_penalty=penalty, early_stopping=early
        )
        found = jax.jit(lambda params, fused, config=config: fid.reader.answer(params, fused, config))(
            fid.params, fid.fused
        )
        np.testing.assert_array_equal(np.asarray(found.tokens[:, 0]), expected, err_msg=f"{beams=} {penalty=} {early=}")
        lengths_seen |= set(np.asarray(found.lengths[:, 0]).tolist())
    assert len(lengths_seen) > 1  # some answers ended by themselves, some at the limit
