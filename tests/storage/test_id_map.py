"""The id map: every id finds its row, colliding prefixes included, and no flipped bit becomes a wrong answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimmer import DamageError, UsageError
from glimmer.storage.idmap import BLOCK, IdMap, IdMapDamageError, build_id_map, open_id_map, segment_bases
from glimmer.storage.stores import Store

CONTENT = "c" * 64
# Few distinct prefixes, so that most examples have collisions.
ids = st.sets(
    st.tuples(st.integers(0, 6) | st.integers(0, 2**64 - 1), st.integers(0, 5) | st.integers(0, 2**64 - 1)),
    max_size=60,
).map(lambda pairs: [f"{prefix:016x}{suffix:016x}" for prefix, suffix in sorted(pairs, key=hash)])


def batch_of(names: list[str], segment: str = "s", first: int = 0) -> pa.RecordBatch:
    number = np.arange(first, first + len(names), dtype=np.int32)
    columns = {
        "passage_id": pa.array(names, pa.string()),
        "segment": pa.array([segment] * len(names), pa.string()),
        "row": number,
        "n_tokens": (number % 250 + 1).astype(np.int32),
        "article_id": pa.array([str(value // 3) for value in number], pa.string()),
        "start_paragraph_id": number,
        "start_character": -number,
        "end_paragraph_id": number + 1,
        "end_character": number + 2,
    }
    return pa.record_batch(columns)


def build(store: Store, names: list[str], batches: list[pa.RecordBatch] | None = None) -> IdMap:
    batches = [batch_of(names)] if batches is None else batches
    bases = segment_bases({"s": max(len(names), 1)})
    build_id_map(store, "ids.map", batches, rows=len(names), bases=bases, content_sha256=CONTENT)
    return IdMap(store, "ids.map", content_sha256=CONTENT)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids, ids)
def test_every_id_finds_its_row_and_no_other_does(
    new_store: Callable[[], Store], names: list[str], others: list[str]
) -> None:
    found = build(new_store(), names)
    positions = found.find(names)
    ordered = sorted(names)
    assert positions.tolist() == [ordered.index(name) for name in names]
    assert found.ids(positions) == names
    assert found.locations(positions).tolist() == list(range(len(names)))
    assert found.tokens(positions).tolist() == [row % 250 + 1 for row in range(len(names))]
    assert found.provenance(positions).tolist() == [[row, -row, row + 1, row + 2] for row in range(len(names))]
    assert found.find(others).tolist() == [ordered.index(name) if name in ordered else -1 for name in others]
    assert found.articles == -(-len(names) // 3)
    found.check_all()


def test_many_blocks_in_batches_from_two_segments(store: Store, kit: Any) -> None:
    names = [kit.passage(number).passage_id for number in range(5 * BLOCK + 17)]
    half = 700
    batches = [batch_of(names[half:], "b", 0), batch_of(names[:half], "a", 0)]
    bases = segment_bases({"b": len(names) - half, "a": half})
    assert bases == {"a": (0, half), "b": (half, len(names) - half)}
    build_id_map(store, "ids.map", batches, rows=len(names), bases=bases, content_sha256=CONTENT)
    found = IdMap(store, "ids.map", content_sha256=CONTENT)
    assert found.locations(found.find(names)).tolist() == list(range(len(names)))


def test_checksums_are_those_of_the_format(store: Store) -> None:
    names = [f"{number:032x}" for number in range(BLOCK + 7)]
    build(store, names)
    content = store.read("ids.map")
    blocks, offset = 2, 4096
    multipliers = np.frombuffer(hashlib.shake_256(b"glimmer id map").digest(8 * 4 * BLOCK), "<u8") | np.uint64(1)
    expected = []
    for dtype, width in (("<u8", 1), ("<u4", 1), ("<u2", 1), ("<u8", 1), ("<i4", 4)):
        size = blocks * BLOCK * width
        column = np.frombuffer(content, dtype, size, offset)
        offset += column.nbytes
        for block in np.split(column, blocks):
            words = zip(block.tolist(), multipliers.tolist(), strict=False)
            expected.append(sum(word * multiplier for word, multiplier in words) % 2**64)
    assert np.frombuffer(content, "<u8", offset=offset).tolist() == expected


def test_an_id_or_a_row_listed_twice_is_refused(store: Store) -> None:
    names = [f"{number:032x}" for number in range(10)]
    with pytest.raises(DamageError, match=f"passage {names[3]} more than once"):
        build(store, [*names, names[3]])
    with pytest.raises(DamageError, match="one row"):
        build(store, names, [batch_of(names[:5]), batch_of(names[5:])])
    assert store.names() == []


def test_a_catalog_that_cannot_be_indexed_is_refused(store: Store) -> None:
    names = [f"{number:032x}" for number in range(10)]
    for batches, message in (
        ([batch_of(names, "other")], "segment 'other'"),
        ([batch_of(names, first=5)], "outside its segment"),
        ([batch_of(["A" * 32, *names[1:]])], "lower-case hex"),
        ([batch_of(["12", *names[1:]])], "32 digits"),
        ([batch_of(names[:9])], "holds 9 rows"),
        ([batch_of(names), batch_of(names)], "more than the 10 rows"),
    ):
        with pytest.raises(DamageError, match=message):
            build(store, names, batches)


@pytest.mark.parametrize("count", [150, pytest.param(1200, marks=pytest.mark.slow)])
def test_no_flipped_bit_leads_to_another_row(store: Store, kit: Any, count: int) -> None:
    names = [kit.passage(number).passage_id for number in range(700)]
    build(store, names)
    content = store.read("ids.map")
    random = np.random.default_rng(3)
    noticed = 0
    for bit in random.choice(len(content) * 8, count, replace=False).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        store.put("ids.map", bytes(flipped))
        try:
            found = IdMap(store, "ids.map", content_sha256=CONTENT)
            positions = found.find(names)
            assert found.locations(positions).tolist() == list(range(700))
            assert found.tokens(positions).tolist() == [row % 250 + 1 for row in range(700)]
            assert found.provenance(positions)[:, 0].tolist() == list(range(700))
        except IdMapDamageError:
            noticed += 1
    # What went unnoticed fell into padding or the unused part of the header.
    assert noticed > 0.55 * count


def test_a_map_that_is_absent_or_of_another_version_is_not_opened(store: Store) -> None:
    build(store, ["0" * 32])
    assert open_id_map(store, "ids.map", content_sha256=CONTENT) is not None
    assert open_id_map(store, "ids.map", content_sha256="d" * 64) is None
    store.put("ids.map", store.read("ids.map")[:-1])
    assert open_id_map(store, "ids.map", content_sha256=CONTENT) is None


@pytest.mark.parametrize("name", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, " " + "0" * 31, "../" + "0" * 29])
def test_what_is_not_an_id_is_refused(store: Store, name: str) -> None:
    with pytest.raises(UsageError, match="not a passage id"):
        build(store, ["0" * 32]).find([name])
