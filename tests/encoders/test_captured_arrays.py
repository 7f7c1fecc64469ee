"""Arrays that a function closes over become arguments of its program, each kept once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from glimmer.encoders.captured_arrays import SMALL, CapturedArrays

LARGE = np.random.default_rng(0).normal(size=(SMALL // 4 // 8, 8)).astype(np.float32)
SCALES = np.arange(8, dtype=np.float32)


def looked_up(ids: jax.Array) -> jax.Array:
    return jnp.asarray(LARGE)[ids] * jnp.asarray(SCALES)


def test_large_arrays_are_arguments_and_the_program_has_none_of_them() -> None:
    arrays, function = CapturedArrays().of(looked_up, np.zeros(5, np.int32))
    [large] = arrays
    assert np.array_equal(np.asarray(large), LARGE)
    ids = np.array([1, 0, 7, 3, 2], np.int32)
    program = jax.jit(function).lower(arrays, ids)
    assert np.array_equal(np.asarray(program.compile()(arrays, ids)), LARGE[ids] * SCALES)
    other = (jnp.zeros_like(large),)
    assert not np.asarray(program.compile()(other, ids)).any(), "the program uses what it is given"


def test_two_shapes_and_two_functions_share_an_array() -> None:
    captured = CapturedArrays()
    [first], _ = captured.of(looked_up, np.zeros(5, np.int32))
    [second], _ = captured.of(looked_up, np.zeros((2, 3), np.int32))
    copy = LARGE.copy()
    [third], _ = captured.of(lambda ids: jnp.asarray(copy)[ids], np.zeros(4, np.int32))
    assert first is second is third
    [changed], _ = captured.of(lambda ids: jnp.asarray(-copy)[ids], np.zeros(4, np.int32))
    assert changed is not first


def test_a_function_without_large_arrays_has_none() -> None:
    arrays, function = CapturedArrays().of(lambda x: x * jnp.asarray(SCALES), np.ones((2, 8), np.float32))
    assert arrays == ()
    assert np.array_equal(np.asarray(jax.jit(function)((), np.ones((2, 8), np.float32))), np.tile(SCALES, (2, 1)))
