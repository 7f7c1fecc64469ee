"""Codecs: what comes back, to the bit or within the bound that the docstring promises."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from glimmer import DamageError, UsageError
from glimmer.storage.codecs import Codec, codec_from_spec, make_codec

WIDTH = 8
IDS = np.zeros(3, np.int32)
UNFITTED = ("bfloat16", "float32", "int8")
# One shape: every example runs the same compiled program.
any_floats = hnp.arrays(np.float32, (3, WIDTH), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))
finite_floats = hnp.arrays(np.float32, (3, WIDTH), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


@cache
def compiled(name: str) -> tuple[Any, Any]:
    codec = make_codec(name, WIDTH)
    return jax.jit(codec.encode), jax.jit(codec.decode, static_argnums=1)


def through(codec: Codec, x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    encode, decode = compiled(codec.name)
    codes = encode(x, IDS)
    return np.asarray(codes), np.asarray(decode(codes, jnp.float32))


@settings(max_examples=100, deadline=None)
@given(any_floats)
def test_float32_keeps_every_bit_little_endian(x: npt.NDArray[np.float32]) -> None:
    codes, back = through(make_codec("float32", WIDTH), x)
    assert codes.tobytes() == x.astype("<f4").tobytes()
    assert back.tobytes() == x.tobytes()


@settings(max_examples=100, deadline=None)
@given(any_floats)
def test_bfloat16_keeps_every_bit_of_bfloat16_values(x: npt.NDArray[np.float32]) -> None:
    with np.errstate(over="ignore"):
        values = x.astype(ml_dtypes.bfloat16)
    codec = make_codec("bfloat16", WIDTH)
    encode, decode = compiled(codec.name)
    codes = np.asarray(encode(values, IDS))
    back = np.asarray(decode(codes, jnp.bfloat16))
    assert codes.tobytes() == values.tobytes()
    assert back.tobytes() == values.tobytes()


@settings(max_examples=300, deadline=None)
@given(finite_floats)
def test_int8_stays_within_half_a_step_of_the_largest_component(x: npt.NDArray[np.float32]) -> None:
    codes, back = through(make_codec("int8", WIDTH), x)
    assert codes.shape == (3, WIDTH + 4)
    assert np.isfinite(back).all()
    largest = np.abs(x.astype(np.float64)).max(axis=-1, keepdims=True)
    step = largest / 127
    tiny = 128 * float(np.finfo(np.float32).tiny)
    assert np.all(np.abs(back - x.astype(np.float64)) <= np.where(largest < tiny, largest, step / 2 * 1.0001))


@pytest.mark.parametrize("name", UNFITTED)
def test_all_zero_codes_are_zeros_and_zeros_are_all_zero_codes(name: str) -> None:
    codec = make_codec(name, WIDTH)
    codes, back = through(codec, np.zeros((3, WIDTH), np.float32))
    assert not codes.any()
    assert not back.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_int8_shows_a_broken_token_as_nan_and_leaves_its_neighbours(bad: float) -> None:
    x = np.ones((3, WIDTH), np.float32)
    x[1, 4] = bad
    _, back = through(make_codec("int8", WIDTH), x)
    assert np.isnan(back[1]).all()
    np.testing.assert_allclose(back[[0, 2]], 1.0, rtol=1e-6)


@pytest.mark.parametrize("largest", [np.finfo(np.float32).max, 1e30, 1.0, 1e-30])
def test_int8_reaches_the_ends_of_the_range(largest: float) -> None:
    x = (np.linspace(-1, 1, WIDTH) * largest).astype(np.float32)[None]
    _, back = through(make_codec("int8", WIDTH), np.repeat(x, 3, 0))
    assert np.isfinite(back).all()
    np.testing.assert_allclose(back[0, [0, -1]], x[0, [0, -1]], rtol=1e-6)


@pytest.mark.parametrize("name", UNFITTED)
def test_leading_axes_do_not_matter_and_codes_have_the_promised_size(name: str) -> None:
    codec = make_codec(name, WIDTH)
    x = np.random.default_rng(0).normal(size=(2, 5, WIDTH)).astype(np.float32)
    codes = np.asarray(codec.encode(jnp.asarray(x), jnp.zeros((2, 5), jnp.int32)))
    assert codes.dtype == np.uint8
    assert codes.shape == (2, 5, codec.code_bytes)
    flat = np.asarray(codec.encode(jnp.asarray(x.reshape(10, WIDTH)), jnp.zeros(10, jnp.int32)))
    assert np.array_equal(codes.reshape(10, -1), flat)


@pytest.mark.parametrize("name", UNFITTED)
def test_spec_and_tables_make_the_same_codec_again(name: str) -> None:
    codec = make_codec(name, WIDTH)
    assert codec_from_spec(codec.spec(), codec.tables()) == codec
    assert isinstance(codec, Codec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "codec.name"),
        ({"name": "zip", "width": 8}, "codec.name"),
        ({"name": ["int8"], "width": 8}, "codec.name"),
        ({"name": "int8"}, "keys"),
        ({"name": "int8", "width": 8, "path": "../../etc"}, "keys"),
        ({"name": "int8", "width": "8"}, "codec.width"),
        ({"name": "int8", "width": True}, "codec.width"),
        ({"name": "int8", "width": 1 << 30}, "codec.width"),
    ],
)
def test_a_description_nobody_could_have_written_is_damage(spec: dict[str, object], message: str) -> None:
    with pytest.raises(DamageError, match=message):
        codec_from_spec(spec, {})


def test_unexpected_tables_are_damage() -> None:
    with pytest.raises(DamageError, match="tables"):
        codec_from_spec({"name": "int8", "width": 8}, {"codebooks": np.zeros(3)})


def test_wrong_requests_say_what_is_possible() -> None:
    with pytest.raises(UsageError, match="bfloat16, float32, int8"):
        make_codec("zip", 8)
    with pytest.raises(UsageError, match="width"):
        make_codec("int8", 0)
    with pytest.raises(UsageError, match="wide"):
        make_codec("int8", 8).encode(jnp.zeros((2, 9)), jnp.zeros(2, jnp.int32))
