"""memory.json: what is written comes back; whatever else stands there is refused with the key that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimmer import DamageError, MismatchError, UsageError
from glimmer.storage.identity import Identity, read_identity, write_identity
from glimmer.storage.memory import Memory
from glimmer.storage.stores import Store

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


def test_what_is_written_comes_back(kit: Any, store: Store) -> None:
    identity = kit.identity()
    write_identity(store, identity)
    assert read_identity(store) == identity
    assert Identity.parse(identity.to_bytes()) == identity


def record(kit: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(kit.identity().to_bytes())
    return content


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format_version", 0, "format_version"),
        ("format_version", True, "format_version"),
        ("encoder", [], "encoder"),
        ("encoder.name", 5, r"encoder\.name"),
        ("encoder.name", "\ud800", "encode"),
        ("encoder.fingerprint", "../../etc/passwd", r"encoder\.fingerprint"),
        ("encoder.family", "../GPT", r"encoder\.family"),
        ("encoder.d_model", 0, r"encoder\.d_model"),
        ("encoder.d_model", 1.5, r"encoder\.d_model"),
        ("encoder.memory_layers", -1, r"encoder\.memory_layers"),
        ("encoder.precision", "float8", r"encoder\.precision"),
        ("passages.window", 1 << 16, r"passages\.window"),
        ("passages.template", None, r"passages\.template"),
        ("passages.options", {"a": [1]}, r"passages\.options\.a"),
        ("codec.name", "zip", r"codec\.name"),
        ("codec.width", 1 << 40, r"codec\.width"),
        ("codec.path", "../x", "codec"),
        ("tables_sha256", "..", "tables_sha256"),
        ("shapes", [], "shapes"),
        ("shapes", [[4, 8], [4, 4]], r"shapes\[1\]\[1\]"),
        ("shapes", [[4, 4]], "shapes"),
        ("shapes", [[4]], r"shapes\[0\]"),
        ("created", "yesterday", "created"),
        ("surprise", 1, "surprise"),
    ],
)
def test_a_wrong_value_is_damage_that_names_the_key(kit: Any, path: str, value: Any, message: str) -> None:
    content = record(kit)
    *outer, key = path.split(".")
    inner = content
    for name in outer:
        inner = inner[name]
    inner[key] = value
    with pytest.raises(DamageError, match=message):
        Identity.parse(json.dumps(content).encode(), "m/memory.json")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_replaced_value_crashes_the_parser(kit: Any, data: st.DataObject) -> None:
    content = record(kit)
    inner: Any = content
    while True:
        key = data.draw(st.sampled_from(sorted(inner)))
        if not isinstance(inner[key], dict) or not inner[key] or data.draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = data.draw(values)
    try:
        parsed = Identity.parse(json.dumps(content).encode())
    except (DamageError, MismatchError) as error:
        assert "\n" not in str(error)  # noqa: PT017 (either outcome is right, a crash is not)
    else:
        assert json.loads(parsed.to_bytes()) == content


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64) | st.text(max_size=64).map(str.encode))
def test_no_bytes_crash_the_parser(content: bytes) -> None:
    with pytest.raises(DamageError):
        Identity.parse(content)


def test_hostile_json_is_damage(kit: Any) -> None:
    good = kit.identity().to_bytes().decode()
    for content in (
        good.replace('"window": 8', '"window": 8, "window": 9'),
        good.replace('"window": 8', '"window": NaN'),
        good.replace('"window": 8', '"window": 1e999'),
        "[" * 100_000,
        good + " " * (2 << 20),
        good + "{}",
    ):
        with pytest.raises(DamageError):
            Identity.parse(content.encode())


def test_a_newer_format_asks_for_an_upgrade(kit: Any) -> None:
    content = record(kit) | {"format_version": 2, "new": 1}
    with pytest.raises(MismatchError, match="newer Glimmer"):
        Identity.parse(json.dumps(content).encode())


@pytest.mark.parametrize("step", [67, pytest.param(7, marks=pytest.mark.slow)])
def test_no_flipped_bit_in_memory_json_goes_unnoticed(kit: Any, store: Store, step: int) -> None:
    memory = kit.memory(store, 5)
    content = store.read("memory.json")
    for bit in range(0, len(content) * 8, step):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        store.put("memory.json", bytes(flipped))
        with pytest.raises((DamageError, MismatchError), match=r"memory\.json"):
            Memory.open(memory)


def test_creating_again_keeps_an_equal_memory_and_refuses_another(kit: Any, store: Store) -> None:
    memory = kit.memory(store, 5)
    later = kit.identity(created="2031-01-01T00:00:00Z")
    assert Memory.create(memory, later).passages == 5
    other = kit.identity(encoder=replace(kit.identity().encoder, fingerprint="cd" * 32))
    with pytest.raises(MismatchError, match=r"encoder\.fingerprint"):
        Memory.create(memory, other)
    with pytest.raises(MismatchError, match="shapes"):
        Memory.create(memory, kit.identity(shapes=((2, 8),)))


def test_an_identity_that_could_not_be_read_back_is_never_written(kit: Any, store: Store) -> None:
    with pytest.raises(UsageError, match="shapes"):
        Memory.create(store, kit.identity(shapes=()))
    assert not store.exists("memory.json")


def test_tables_must_be_those_of_the_codec(kit: Any, store: Store) -> None:
    with pytest.raises(DamageError, match="tables"):
        Memory.create(store, kit.identity(), {"codebooks": np.zeros(3, np.float32)})
