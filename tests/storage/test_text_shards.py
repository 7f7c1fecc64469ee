"""Text shards: what is written comes back; what is damaged is named, never misread and never a crash."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glimmer import DamageError, UsageError
from glimmer.storage.passage import PASSAGE_SCHEMA, Passage, content_hash
from glimmer.storage.stores import Store
from glimmer.storage.text_shards import TextShard, text_shard

int32s = st.integers(-(2**31), 2**31 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@st.composite
def passages(draw: st.DrawFn) -> Passage:
    title, text = draw(texts), draw(texts)
    return Passage(
        passage_id=f"{draw(st.integers(0, 2**128 - 1)):032x}",
        article_id=draw(texts),
        title=title,
        text=text,
        start_paragraph_id=draw(int32s),
        start_character=draw(int32s),
        end_paragraph_id=draw(int32s),
        end_character=draw(int32s),
        content_hash=content_hash(title, text),
        tokens=np.array(draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9)), np.int32),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(passages(), min_size=1, max_size=5))
def test_passages_come_back_as_they_were(new_store: Callable[[], Store], rows: list[Passage]) -> None:
    store = new_store()
    store.put("0.arrow", text_shard(rows))
    shard = TextShard(store, "0.arrow")
    assert shard.passages() == rows
    for name in ("passage_id", "article_id", "title", "text", "content_hash", "end_paragraph_id"):
        assert shard.columns([name])[name].to_pylist() == [getattr(row, name) for row in rows]
    assert shard.lengths().tolist() == [len(row.tokens) for row in rows]


def test_any_arrow_reader_reads_a_text_shard(tmp_path: Path, kit: Any) -> None:
    rows = [kit.passage(number) for number in range(20)]
    (tmp_path / "0.arrow").write_bytes(text_shard(rows))
    table = pa.ipc.open_file(tmp_path / "0.arrow").read_all()
    assert table.schema == PASSAGE_SCHEMA
    assert table.column("text").to_pylist() == [row.text for row in rows]


def test_equal_passages_give_equal_bytes(kit: Any) -> None:
    once, again = (text_shard([kit.passage(number) for number in range(20)]) for _ in range(2))
    assert once == again


@pytest.mark.parametrize("count", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_ever_read_as_text(store: Store, kit: Any, count: int) -> None:
    rows = [kit.passage(number) for number in range(6)]
    content = text_shard(rows)
    random = np.random.default_rng(7)
    noticed = 0
    for bit in random.choice(len(content) * 8, count, replace=False).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        store.put("0.arrow", bytes(flipped))
        for number, row in enumerate(rows):
            try:
                assert TextShard(store, "0.arrow").passage(number) == row
            except DamageError:
                noticed += 1
        with contextlib.suppress(DamageError):
            found = TextShard(store, "0.arrow").columns(["passage_id", "text"])
            assert found["passage_id"].to_pylist() == [row.passage_id for row in rows]
            assert found["text"].to_pylist() == [row.text for row in rows]
    assert noticed > count / 3


def test_columns_of_a_shard_with_a_damaged_row_name_the_row(store: Store, kit: Any) -> None:
    content = text_shard([kit.passage(number) for number in range(6)])
    store.put("0.arrow", content.replace(b"Text of passage 4", b"Text of passage 5"))
    with pytest.raises(DamageError, match="row 4 fails its checksum"):
        TextShard(store, "0.arrow").columns(["passage_id"])


@pytest.mark.parametrize("size", [0, 1, 100, 700])
def test_a_truncated_shard_is_damage(store: Store, kit: Any, size: int) -> None:
    store.put("0.arrow", text_shard([kit.passage(number) for number in range(6)])[:size])
    with pytest.raises(DamageError, match=r"0\.arrow"):
        TextShard(store, "0.arrow")


def test_a_missing_shard_and_another_arrow_file_are_damage(store: Store) -> None:
    with pytest.raises(DamageError, match="missing"):
        TextShard(store, "0.arrow")
    table, sink = pa.table({"text": ["not a passage"]}), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    store.put("1.arrow", sink.getvalue().to_pybytes())
    with pytest.raises(DamageError, match="columns are not those of this format"):
        TextShard(store, "1.arrow")


def test_passages_that_cannot_be_stored_are_refused(kit: Any) -> None:
    good = kit.passage(0)
    for change, message in (
        ({"passage_id": "X" * 32}, "32 lower-case hex"),
        ({"content_hash": "12"}, "16 lower-case hex"),
        ({"tokens": np.zeros(0, np.int32)}, "non-empty"),
        ({"tokens": np.array([-1], np.int32)}, "negative"),
    ):
        with pytest.raises(UsageError, match=message):
            text_shard([replace(good, **change)])
    with pytest.raises(UsageError, match="1 to 1024"):
        text_shard([])


def test_content_hash_separates_title_from_text() -> None:
    assert content_hash("ab", "c") != content_hash("a", "bc")
    assert content_hash("", "ü") == content_hash("", "ü")
