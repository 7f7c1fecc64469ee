"""The train step: accumulation and devices change nothing, frozen weights stay, dropout follows seed and step."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from glimmer.encoders.models import load_model
from glimmer.reader.config import ReaderConfig
from glimmer.reader.model import Reader
from glimmer.reader.training.losses import LossSettings, Questions
from glimmer.reader.training.optimiser import make_optimiser, trainable_names
from glimmer.reader.training.step import TrainStep
from glimmer.storage.codecs import make_codec

World = tuple[Reader, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> World:
    model = load_model(tiny_model(tmp_path_factory.mktemp("model") / "bert", memory_layers=1))
    reader = Reader(ReaderConfig.from_model(model.config), dtype=jnp.float32)
    return reader, {name: np.asarray(model.tensors[name]) for name in reader.shapes()}


def batch_of(parts: int, rows: int) -> Questions:
    """Four questions with codes of three passages, arranged as `parts` of `rows`."""
    draw, codec = np.random.default_rng(0), make_codec("int8", 32)
    vectors = jnp.asarray(draw.normal(size=(4, 3, 8, 32)), jnp.float32)
    codes = np.asarray(codec.encode(vectors, jnp.zeros(vectors.shape[:-1], jnp.int32)))
    every = Questions(
        tokens=jnp.asarray(draw.integers(10, 200, (4, 6)).astype(np.int32)),
        lengths=jnp.asarray(np.array([6, 5, 4, 6], np.int32)),
        passages=jnp.asarray(codes),
        passage_lengths=jnp.asarray(np.array([[8, 8, 8], [8, 8, 0], [5, 8, 8], [8, 0, 0]], np.int32)),
        answers=jnp.asarray(draw.integers(10, 200, (4, 4)).astype(np.int32)),
        answer_lengths=jnp.asarray(np.array([4, 2, 3, 1], np.int32)),
        weights=jnp.asarray(np.array([1.0, 0.5, 1.0, 1.0], np.float32)),
        gold=jnp.asarray(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], bool)),
    )
    return Questions(*(field.reshape(parts, rows, *field.shape[1:]) for field in every if field is not None))


def step_of(world: World, *, dropout: float = 0.0) -> TrainStep:
    reader, tensors = world
    return TrainStep(
        reader,
        tensors,
        trainable_names(reader.config, tensors, "live"),
        make_optimiser(1e-2),
        select=2,
        settings=LossSettings(ranking_weight=0.5),
        dropout_rate=dropout,
        seed=1,
        decode=make_codec("int8", 32).decode,
    )


@pytest.fixture(scope="module")
def plain(world: World) -> TrainStep:
    """A step without dropout."""
    return step_of(world)


@pytest.mark.slow
def test_accumulated_parts_are_one_large_batch(plain: TrainStep) -> None:
    """Weights, lengths and absent passages differ between the parts: means are over the whole, not of the parts."""
    step = plain
    one, losses = step(step.start(), batch_of(1, 4))
    many, parts = step(step.start(), batch_of(4, 1))
    np.testing.assert_allclose([*parts], [*losses], rtol=1e-4)
    for name in one.weights:
        np.testing.assert_allclose(many.weights[name], one.weights[name], rtol=2e-3, atol=2e-4)


def test_only_what_lies_above_the_memory_is_trained_and_a_batch_can_be_learnt(plain: TrainStep) -> None:
    step, batch = plain, batch_of(1, 4)
    state = step.start()
    assert not [name for name in state.weights if name.startswith(("encoder.embedding", "encoder.layers.0."))]
    before = {name: np.array(value) for name, value in state.weights.items()}
    state, first = step(state, batch)
    assert [name for name, value in before.items() if np.array_equal(value, state.weights[name])] == []
    for _ in range(30):
        state, last = step(state, batch)
    assert int(state.step) == 31
    assert float(last.loss) < 0.7 * float(first.loss)
    assert float(last.distillation) < float(first.distillation)


@pytest.mark.slow
def test_dropout_follows_the_seed_and_the_step(world: World) -> None:
    step, batch = step_of(world, dropout=0.5), batch_of(1, 4)
    first, again = (float(step(step.start(), batch)[1].loss) for _ in range(2))
    later = float(step(step.start()._replace(step=jnp.int32(1)), batch)[1].loss)
    assert first == again
    assert first != later


@pytest.mark.parametrize(("part", "left_out"), [("decoder", "reranker."), ("live", "encoder.layers.0.")])
def test_parts_to_train_are_chosen_by_name(world: World, part: Any, left_out: str) -> None:
    reader, tensors = world
    chosen = trainable_names(reader.config, tensors, part)
    assert any(name.startswith("decoder.") for name in chosen)
    assert not any(name.startswith(left_out) for name in chosen)
    assert trainable_names(reader.config, tensors, "everything") == set(tensors)


@pytest.mark.slow
def test_two_devices_take_the_same_step_as_one(world: World) -> None:
    """Runs this module in a process that has two devices."""
    step = step_of(world)
    _, losses = step(step.start(), batch_of(2, 2))
    code = (
        "import sys, importlib.util, jax, numpy as np, jax.numpy as jnp\n"
        "spec = importlib.util.spec_from_file_location('twin', sys.argv[1])\n"
        "twin = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(twin); assert jax.local_device_count() == 2\n"
        "from pathlib import Path; from tempfile import TemporaryDirectory\n"
        "sys.path.insert(0, sys.argv[2]); import tiny_models\n"
        "with TemporaryDirectory() as place:\n"
        "    model = twin.load_model(tiny_models.tiny_reader(Path(place) / 'bert', memory_layers=1))\n"
        "    reader = twin.Reader(twin.ReaderConfig.from_model(model.config), dtype=jnp.float32)\n"
        "    tensors = {name: np.array(model.tensors[name]) for name in reader.shapes()}\n"
        "step = twin.step_of((reader, tensors)); print(*map(float, step(step.start(), twin.batch_of(2, 2))[1]))\n"
    )
    here = Path(__file__)
    shown = subprocess.run(
        [sys.executable, "-c", code, str(here), str(here.parents[1] / "support")],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    np.testing.assert_allclose([float(word) for word in shown.split()], [*losses], rtol=1e-4)
