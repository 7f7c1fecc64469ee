"""The registry of codecs: how one is named, described, read back and refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimmer import DamageError, UsageError
from glimmer.storage.codecs import (
    CodecSpec,
    FitSample,
    Parameter,
    Tables,
    TableShape,
    codec_from_spec,
    codec_names,
    codec_with_zero_tables,
    codecs_forgotten_afterwards,
    fit_codec,
    fit_samples,
    make_codec,
    new_codec,
    parse_codec,
    parse_spec,
    register_codec,
    spec_text,
    tables_from_bytes,
    tables_to_bytes,
)
from glimmer.storage.memory import Memory

WIDTH = 12


@dataclass(frozen=True)
class Scaled:
    """int8 levels of x / scale, one scale for each dimension: float32 [width]."""

    description: CodecSpec
    scale: npt.NDArray[np.float32]

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def width(self) -> int:
        return self.description.width

    @property
    def code_bytes(self) -> int:
        return self.width

    def encode(self, x: jax.Array, ids: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(jnp.clip(jnp.round(x / self.scale), -127, 127).astype(jnp.int8), jnp.uint8)

    def decode(self, codes: jax.Array, dtype: Any) -> jax.Array:
        return (jax.lax.bitcast_convert_type(jnp.asarray(codes), jnp.int8) * self.scale).astype(dtype)

    def spec(self) -> dict[str, Any]:
        return self.description.to_json()

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        return {"scale": self.scale}


def divides(spec: CodecSpec) -> int:
    if spec.width % spec["groups"]:
        raise UsageError(f"groups is {spec['groups']}, expected a divisor of the width {spec.width}")
    return spec.width


def shapes(spec: CodecSpec) -> dict[str, TableShape]:
    return {"scale": TableShape((spec.width,), np.float32)}


def load(spec: CodecSpec, tables: Tables) -> Scaled:
    return Scaled(spec, tables["scale"])


PARAMETERS = (
    Parameter(name="groups", kind=int, default=1, low=1, high=64),
    Parameter(name="share", kind=float, default=0.5, low=0.0, high=1.0),
    Parameter(name="rotate", kind=bool, default=False),
    Parameter(name="norm", kind=str, default="max", choices=("max", "l2")),
    Parameter(name="level", kind=int, low=0),
)


def sample_of(vectors: npt.NDArray[np.float32]) -> FitSample:
    nothing = np.zeros(len(vectors), np.int32)
    return FitSample(vectors=vectors, ids=nothing, positions=nothing, embeddings=vectors[:1])


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """`made` has tables that follow from its parameters, `fitted` learns them."""
    with codecs_forgotten_afterwards():
        register_two()
        yield


def register_two() -> None:
    register_codec(
        "made",
        code_bytes=divides,
        load=load,
        tables=shapes,
        parameters=PARAMETERS,
        make=lambda spec: Scaled(spec, np.full(spec.width, 1 + spec["level"], np.float32)),
    )
    register_codec(
        "fitted",
        code_bytes=lambda spec: spec.width,
        load=load,
        tables=shapes,
        fit=lambda sample, spec, seed: Scaled(spec, np.abs(sample.vectors).max(0) / np.float32(127)),
        fit_samples=100,
    )


def test_a_command_line_gives_every_parameter_a_checked_value() -> None:
    spec = parse_codec("made:level=3,rotate=true,groups=4", WIDTH)
    expected = {"groups": 4, "share": 0.5, "rotate": True, "norm": "max", "level": 3}
    assert spec.to_json() == {"name": "made", "width": WIDTH, **expected}
    assert str(spec) == "made:groups=4,level=3,norm=max,rotate=true,share=0.5"
    assert spec_text(parse_codec("int8", WIDTH).to_json()) == "int8"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zip", "unknown codec 'zip'; choose one of bfloat16, fitted, float32, int8, made, pq"),
        ("", "unknown codec ''"),
        ("int8:", "codec int8: '' is not one of its parameters; it takes none"),
        ("int8:bytes=4", "codec int8: 'bytes=4' is not one of its parameters; it takes none"),
        (
            "made:level=1,group=4",
            r"'group=4' is not .* it takes groups= \(an integer from 1 to 64, default 1\), share=",
        ),
        ("made:level", "'level' is not one of its parameters"),
        ("made:level=1,level=2", "level is given twice"),
        ("made", "codec made: level must be given; it takes groups="),
        ("made:level=-1", "level is -1, expected an integer of at least 0"),
        ("made:level=many", "level is 'many', expected an integer"),
        ("made:level=1.0", "level is '1.0', expected an integer"),
        ("made:level=1,groups=65", "groups is 65, expected an integer from 1 to 64"),
        ("made:level=1,rotate=yes", "rotate is 'yes', expected true or false"),
        ("made:level=1,norm=l1", "norm is 'l1', expected one of max, l2"),
        ("made:level=1,share=nan", "share is nan, expected a number from 0.0 to 1.0"),
        ("made:level=1,groups=5", "groups is 5, expected a divisor of the width 12"),
    ],
)
def test_what_is_not_understood_is_refused_with_what_there_is(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_codec(text, WIDTH)


values = st.fixed_dictionaries(
    {
        "groups": st.sampled_from([1, 2, 3, 4, 6, 12]),
        "share": st.floats(0, 1),
        "rotate": st.booleans(),
        "norm": st.sampled_from(["max", "l2"]),
        "level": st.integers(0, 1 << 40),
    }
)


@given(values)
def test_the_text_of_a_description_is_its_command_line(parameters: dict[str, Any]) -> None:
    spec = parse_spec({"name": "made", "width": WIDTH, **parameters})
    assert parse_codec(str(spec), WIDTH) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": None}, r"codec\.level is None, expected an integer"),
        ({"level": True}, r"codec\.level is True"),
        ({"share": 1}, r"codec\.share is 1, expected a number"),
        ({"share": float("nan")}, r"codec\.share is nan"),
        ({"rotate": 1}, r"codec\.rotate is 1"),
        ({"norm": "/etc/passwd"}, r"codec\.norm is '/etc/passwd'"),
        ({"groups": 5}, r"codec\.groups is 5, expected a divisor"),
        ({"other": 1}, "keys"),
    ],
)
def test_a_parameter_that_no_codec_has_is_damage(change: dict[str, Any], message: str) -> None:
    record = parse_codec("made:level=1", WIDTH).to_json() | change
    with pytest.raises(DamageError, match=message):
        codec_from_spec(record, {"scale": np.ones(WIDTH, np.float32)})


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, r"tables \[\], but codec made needs \['scale'\]"),
        ({"scale": np.ones(WIDTH, np.float32), "more": np.ones(1)}, "needs"),
        ({"scale": np.ones(WIDTH + 1, np.float32)}, r"table scale is float32 \(13,\), expected float32 \(12,\)"),
        ({"scale": np.ones(WIDTH, np.float64)}, "table scale is float64"),
        ({"scale": np.full(WIDTH, np.nan, np.float32)}, "NaN"),
    ],
    ids=["none", "one more", "another shape", "another dtype", "not finite"],
)
def test_tables_of_another_kind_are_damage(tables: Any, message: str) -> None:
    with pytest.raises(DamageError, match=message):
        codec_from_spec(parse_codec("made:level=1", WIDTH).to_json(), tables)


def test_tables_made_from_parameters_need_no_fit_and_are_read_back_from_the_memory(kit: Any, tmp_path: Path) -> None:
    codec = make_codec("made:level=2", kit.width)
    assert fit_samples(parse_codec("made:level=2", kit.width)) == 0
    Memory.create(tmp_path / "m", kit.identity(codec=codec.spec()), codec.tables())
    opened = Memory.open(tmp_path / "m")
    assert opened.codec.spec() == codec.spec()
    x = np.random.default_rng(0).normal(size=(5, kit.width), scale=9).astype(np.float32)
    ids = jnp.zeros(5, jnp.int32)
    codes = np.asarray(opened.codec.encode(jnp.asarray(x), ids))
    assert np.array_equal(codes, np.asarray(codec.encode(jnp.asarray(x), ids)))
    assert np.abs(np.asarray(opened.codec.decode(jnp.asarray(codes), np.float32)) - x).max() <= 1.5


def test_a_fitted_codec_is_made_from_samples_only() -> None:
    spec = parse_codec("fitted", WIDTH)
    with pytest.raises(UsageError, match="glimmer encode"):
        new_codec(spec)
    samples = np.random.default_rng(0).normal(size=(50, WIDTH)).astype(np.float32)
    codec = fit_codec(spec, sample_of(samples), 0)
    assert np.array_equal(codec.tables()["scale"], np.abs(samples).max(0) / np.float32(127))
    assert fit_samples(spec) == 100
    assert codec_with_zero_tables(spec).code_bytes == codec.code_bytes


def test_a_fit_that_went_wrong_is_never_stored() -> None:
    spec = parse_codec("fitted", WIDTH)
    with pytest.raises(UsageError, match=r"NaN.*mistake in the codec"):
        fit_codec(spec, sample_of(np.full((3, WIDTH), np.nan, np.float32)), 0)
    with pytest.raises(UsageError, match=r"float32 \(11,\), expected float32 \(12,\)"):
        fit_codec(spec, sample_of(np.ones((3, WIDTH - 1), np.float32)), 0)


def test_a_name_stands_for_one_codec() -> None:
    with pytest.raises(UsageError, match="registered already"):
        register_codec("int8", code_bytes=lambda spec: 1, load=load)
    with pytest.raises(UsageError, match="lower-case"):
        register_codec("Int8", code_bytes=lambda spec: 1, load=load)
    with pytest.raises(UsageError, match="not from both"):
        register_codec(
            "both",
            code_bytes=lambda spec: 1,
            load=load,
            fit=lambda sample, spec, seed: load(spec, {}),
            make=lambda spec: load(spec, {}),
        )
    assert codec_names() == ("bfloat16", "fitted", "float32", "int8", "made", "pq")


def test_tables_become_bytes_and_come_back_equal() -> None:
    tables: dict[str, np.ndarray] = {"b": np.arange(6, dtype=np.float32).reshape(2, 3).T, "a": np.ones((0, 3), np.int8)}
    back = tables_from_bytes(tables_to_bytes(tables))
    assert back.keys() == tables.keys()
    assert all(np.array_equal(back[name], tables[name]) and back[name].dtype == tables[name].dtype for name in tables)
    assert tables_to_bytes(dict(reversed(tables.items()))) == tables_to_bytes(tables)
    assert tables_to_bytes({}) == b""
