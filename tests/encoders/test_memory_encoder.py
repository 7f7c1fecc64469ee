"""The memory encoder: nothing lost, few compilations, and outputs that depend on the passage alone, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimmer import InputError, UsageError
from glimmer.encoders.memory_encoder import MemoryEncoder, default_shapes
from glimmer.encoders.models import LoadedModel

MakeModel = Callable[..., LoadedModel]
SHAPES = ((4, 16), (3, 32), (2, 64))


@pytest.fixture(scope="module", params=["t5", "bert"])
def encoder(request: pytest.FixtureRequest, make_model: MakeModel) -> MemoryEncoder:
    return MemoryEncoder(make_model(request.param), shapes=SHAPES)


def passage(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 30000, length).astype(np.int32)


def by_index(encoder: MemoryEncoder, tokens: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    """Every passage's output bytes, cut to its real length."""
    outputs: dict[int, np.ndarray] = {}
    for batch in encoder.encode(tokens):
        assert batch.indices.dtype == np.int64
        assert batch.lengths.dtype == np.int32
        for index, length, output in zip(batch.indices, batch.lengths, batch.outputs, strict=True):
            assert int(index) not in outputs
            assert length == len(tokens[index])
            assert not np.any(output[length:].astype(np.float32)), "padding positions are zero"
            outputs[int(index)] = output[:length]
    assert sorted(outputs) == list(range(len(tokens))), "every passage occurs exactly once"
    return outputs


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    subset=st.randoms(use_true_random=False),
)
def test_a_passage_depends_on_itself_alone(
    encoder: MemoryEncoder, lengths: list[int], seed: int, subset: object
) -> None:
    """Whatever the neighbours, their number and the order, the bytes are those of the passage encoded alone."""
    tokens = [passage(length, seed + number) for number, length in enumerate(lengths)]
    together = by_index(encoder, tokens)
    order = list(range(len(tokens)))
    subset.shuffle(order)  # type: ignore[attr-defined]
    shuffled = by_index(encoder, [tokens[number] for number in order])
    for place, number in enumerate(order):
        assert shuffled[place].tobytes() == together[number].tobytes()
    chosen = order[0]
    assert by_index(encoder, [tokens[chosen]])[0].tobytes() == together[chosen].tobytes()


def test_it_equals_the_plain_layers(make_model: MakeModel, compiled: Callable[..., Any]) -> None:
    """float32 outputs are those of the layered encoder run on the unpadded passage."""
    for family in ("t5", "bert"):
        model = make_model(family)
        tokens = [passage(length, length) for length in (3, 16, 40)]
        ours = by_index(MemoryEncoder(model, precision="float32", shapes=SHAPES), tokens)
        plain = model.encoder("float32")
        for number, ids in enumerate(tokens):
            run = compiled(plain, lambda e, t: e.run(e.embed(t), e.context(jnp.ones(t.shape, bool)), 0, 2))
            expected = run(jnp.asarray(ids[None]))[0]
            np.testing.assert_allclose(ours[number], np.asarray(expected), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("split", "finished"), [((3, 0, 0), True), ((2, 1, 0), False)])
def test_the_final_norm_belongs_to_the_last_layer_only(
    make_model: MakeModel, split: tuple[int, int, int], finished: bool
) -> None:
    model = make_model("t5", split=split)
    ids = passage(10, 1)
    output = by_index(MemoryEncoder(model, precision="float32", shapes=SHAPES), [ids])[0]
    root_mean_square = np.sqrt(np.mean(np.square(output), axis=-1))
    assert np.allclose(root_mean_square, 1.0, atol=1e-3) == finished


def test_no_memory_layers_gives_the_embedding(make_model: MakeModel) -> None:
    """α = 1, fusion-in-decoder: only the embedding is precomputed."""
    model = make_model("t5", split=(0, 1, 1))
    ids = passage(10, 1)
    output = by_index(MemoryEncoder(model, precision="float32", shapes=SHAPES), [ids])[0]
    np.testing.assert_array_equal(output, model.tensors["encoder.embedding"][ids])


def test_it_compiles_once_for_each_shape_that_occurs(make_model: MakeModel) -> None:
    encoder = MemoryEncoder(make_model(), shapes=SHAPES)
    assert encoder.compilations == 0
    for seed in range(5):
        by_index(encoder, [passage(length, seed) for length in range(1, 33)])
    assert encoder.compilations == 2


def test_a_transform_runs_inside_and_may_change_type(make_model: MakeModel) -> None:
    """A codec's encode is traced into the same program; its padding is zeroed like any other."""

    def to_bytes(hidden: jax.Array, ids: jax.Array) -> jax.Array:
        assert ids.shape == hidden.shape[:2]
        return jax.lax.bitcast_convert_type(hidden, jnp.uint8).reshape(*hidden.shape[:2], -1) | jnp.uint8(1)

    encoder = MemoryEncoder(make_model(), shapes=SHAPES, transform=to_bytes)
    output = by_index(encoder, [passage(5, 0)])[0]
    assert output.dtype == np.uint8
    assert output.shape == (5, 32 * 4)


def test_the_default_output_type_is_the_precision(encoder: MemoryEncoder) -> None:
    assert by_index(encoder, [passage(5, 0)])[0].dtype == jnp.bfloat16


def test_nothing_in_gives_nothing_out(encoder: MemoryEncoder) -> None:
    assert list(encoder.encode([])) == []


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([np.ones(3, np.int32), np.zeros(0, np.int32)], "passage 1 has 0 tokens"),
        ([np.ones(65, np.int32)], "passage 0 has 65 tokens"),
        ([np.ones(3, np.int32), np.array([5, 40000], np.int32)], "passage 1 has token id 40000"),
        ([np.array([-1], np.int32)], "passage 0 has token id -1"),
    ],
)
def test_a_bad_passage_is_named_before_any_work(encoder: MemoryEncoder, tokens: list[np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder.encode(tokens)


@pytest.mark.parametrize("shapes", [[], [(0, 16)], [(4, 16), (2, 16)], [(1, 129)]])
def test_shapes_that_cannot_work_are_refused(make_model: MakeModel, shapes: list[tuple[int, int]]) -> None:
    with pytest.raises(UsageError):
        MemoryEncoder(make_model("bert"), shapes=shapes)


@pytest.mark.parametrize("window", [8, 64, 100, 256, 512, 1000])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_default_shapes_cover_the_window(window: int, platform: str) -> None:
    shapes = default_shapes(window, platform)
    lengths = [length for _, length in shapes]
    assert lengths[-1] == window
    assert len(shapes) <= (13 if platform == "cpu" else 7)
    assert lengths == sorted(set(lengths))
    assert all(1 <= rows <= 32 for rows, _ in shapes)


def test_the_number_of_devices_changes_no_bit(make_model: MakeModel, tmp_path: Path) -> None:
    """Three devices, each with the same rows, give the bytes that one gives."""
    script = """
import sys, numpy as np
import jax
from glimmer.encoders.memory_encoder import MemoryEncoder
from glimmer.encoders.models import load_model
assert len(jax.local_devices()) == 3
model = load_model(sys.argv[1])
tokens = [np.random.default_rng(n).integers(1, 30000, 1 + n * 3 % 64).astype(np.int32) for n in range(40)]
def run(devices):
    found = {}
    for batch in MemoryEncoder(model, shapes=((4, 16), (2, 64)), devices=devices).encode(tokens):
        found |= {int(i): o.tobytes() for i, o in zip(batch.indices, batch.outputs)}
    return found
one, three = run(jax.local_devices()[:1]), run(jax.local_devices())
assert sorted(one) == list(range(40)) and one == three
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script, str(make_model("t5").path)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_real_shapes_keep_the_promise(minilm_model: LoadedModel) -> None:
    """MiniLM at the default shapes, where products are cut into blocks and shared among threads: still bit-equal."""
    encoder = MemoryEncoder(minilm_model, shapes=[shape for shape in default_shapes(256) if shape[1] in (64, 128)])
    tokens = [passage(length, length) for length in (*range(20, 128, 6), 128, 64)]
    together, reverse = by_index(encoder, tokens), by_index(encoder, tokens[::-1])
    for number, output in together.items():
        assert reverse[len(tokens) - 1 - number].tobytes() == output.tobytes()
    for number in (0, 7, len(tokens) - 1):
        assert by_index(encoder, [tokens[number]])[0].tobytes() == together[number].tobytes()
