"""Memory, as readers see it: positions follow ids, fetches are exact or refused, snapshots stay, indexes heal."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimmer import DamageError, MismatchError, UsageError
from glimmer.storage.catalog_files import CATALOG_SCHEMA, passage_rows
from glimmer.storage.memory import Memory, commit
from glimmer.storage.statistics import inspect_memory
from glimmer.storage.stores import Store

COUNT = 1150


@pytest.fixture
def passages(kit: Any) -> list[Any]:
    return [kit.passage(number) for number in range(COUNT)]


def test_positions_number_the_passages_in_the_order_of_their_ids(memory: Store, passages: list[Any]) -> None:
    opened = Memory.open(memory)
    ordered = sorted(passage.passage_id for passage in passages)
    assert opened.ids(np.arange(COUNT)) == ordered
    assert opened.locate(ordered[::-1]).tolist() == list(range(COUNT))[::-1]
    assert (opened.version, opened.passages, opened.articles) == (2, COUNT, 384)
    assert opened.tokens == sum(len(passage.tokens) for passage in passages)


def test_positions_are_equal_for_equal_content_however_built(new_store: Callable[[], Store], kit: Any) -> None:
    one, two = (kit.memory(new_store(), *counts) for counts in ((90,), (20, 30, 40)))
    everything = np.arange(90)
    a, b = Memory.open(one), Memory.open(two)
    assert a.ids(everything) == b.ids(everything)
    (left, left_lengths), (right, right_lengths) = a.fetch(everything), b.fetch(everything)
    assert np.array_equal(left, right)
    assert np.array_equal(left_lengths, right_lengths)
    assert a.texts(everything) == b.texts(everything)


def test_fetch_is_exact_across_segments_with_repeats_into_a_reused_buffer(
    memory: Store, kit: Any, passages: list[Any]
) -> None:
    opened = Memory.open(memory)
    where = opened.locate([passage.passage_id for passage in passages])
    out = np.full((200, kit.window, kit.code_bytes), 255, np.uint8)
    for seed in range(3):
        pick = np.random.default_rng(seed).integers(0, COUNT, 200)
        codes, lengths = opened.fetch(where[pick], out)
        assert codes is out
        assert np.array_equal(codes, kit.codes([passages[at] for at in pick]))
        assert lengths.tolist() == [len(passages[at].tokens) for at in pick]
        assert opened.token_counts(where[pick]).tolist() == lengths.tolist()
        assert opened.texts(where[pick]) == [passages[at] for at in pick]
    codes, lengths = opened.fetch(np.zeros(0, np.int64))
    assert (len(codes), len(lengths), opened.texts([])) == (0, 0, [])


def test_what_is_not_there_is_refused_with_the_id(memory: Store, passages: list[Any]) -> None:
    opened = Memory.open(memory)
    absent = "0" * 32
    with pytest.raises(MismatchError, match=f"passage {absent} is not in version 2"):
        opened.locate([passages[0].passage_id, absent])
    assert opened.locate([absent, passages[0].passage_id], missing="skip")[0] == -1
    for bad in ([-1], [COUNT], [0.5], [[0]]):
        with pytest.raises(UsageError, match="position"):
            opened.fetch(bad)
    with pytest.raises(UsageError, match="out must be"):
        opened.fetch([0], np.zeros((1, 2, 3), np.uint8))
    with pytest.raises(UsageError, match="no columns"):
        list(opened.passage_table(["text"]))


def test_an_empty_memory_is_a_memory(store: Store, kit: Any) -> None:
    Memory.create(store, kit.identity())
    memory = Memory.open(store)
    assert (memory.version, memory.passages, memory.tokens, memory.articles) == (0, 0, 0, 0)
    assert list(memory.passage_table()) == []
    assert inspect_memory(memory).bytes_per_token == 0


def test_the_scan_in_payload_order_meets_every_passage_once(memory: Store, passages: list[Any]) -> None:
    opened = Memory.open(memory)
    met = [passage for _, some in opened.scan_texts(100) for passage in some]
    assert met == passages
    rows = sum(batch.num_rows for batch in opened.passage_table())
    assert rows == COUNT
    assert next(iter(opened.passage_table())).schema.equals(CATALOG_SCHEMA)


def test_provenance_moves_with_the_catalog_and_codes_stay(memory: Store, kit: Any) -> None:
    opened = Memory.open(memory)
    file = next(f for f in opened.manifest.files if "seg-job-1" in f.segments)
    passages = [kit.passage(number) for number in range(1100, 1150)]
    moved = [replace(p, start_paragraph_id=77, start_character=5, end_paragraph_id=78) for p in passages]
    rows = passage_rows(moved, "seg-job-1", 0)
    commit(memory, base=2, job="moved", operation="refresh", add=[rows], remove=[file.name])
    after = Memory.open(memory)
    where = after.locate([passage.passage_id for passage in passages])
    assert after.texts(where) == moved
    assert np.array_equal(after.fetch(where)[0], kit.codes(passages))
    assert opened.texts(opened.locate([p.passage_id for p in passages])) == passages


def test_a_length_that_disagrees_with_the_catalog_names_passage_shard_and_repair(memory: Store, kit: Any) -> None:
    opened = Memory.open(memory)
    file = next(f for f in opened.manifest.files if "seg-job-1" in f.segments)
    passages = [kit.passage(number) for number in range(1100, 1150)]
    rows = passage_rows(passages, "seg-job-1", 0).to_pydict()
    rows["n_tokens"][9] += 1
    add = [passage_rows(passages, "seg-job-1", 0).from_pydict(rows, schema=CATALOG_SCHEMA)]
    commit(memory, base=2, job="wrong", operation="refresh", add=add, remove=[file.name])
    after = Memory.open(memory)
    name = passages[9].passage_id
    with pytest.raises(DamageError, match=f"passage {name}: segment seg-job-1, shard 0, row 9.*glimmer repair"):
        after.fetch(after.locate([passages[8].passage_id, name]))
    with pytest.raises(DamageError, match=f"passage {name}"):
        after.texts(after.locate([name]))
    assert len(after.fetch(after.locate([passages[8].passage_id]))[1]) == 1


def test_a_damaged_chunk_names_passage_shard_and_repair_and_others_still_come(
    memory: Store, kit: Any, passages: list[Any]
) -> None:
    key = "segments/seg-job-0/codes/c.0.0.0"
    content = bytearray(memory.read(key))
    content[2] ^= 8  # in the first chunk written
    memory.put(key, bytes(content))
    opened = Memory.open(memory)
    where = opened.locate([passage.passage_id for passage in passages])
    with pytest.raises(DamageError, match=r"passage [0-9a-f]{32}: segment seg-job-0, shard 0, row \d+.*repair") as hit:
        opened.fetch(where)
    row = int(str(hit.value).split("row ")[1].split(":")[0])
    assert passages[row].passage_id in str(hit.value)
    sound = np.delete(np.arange(COUNT), row)
    assert np.array_equal(opened.fetch(where[sound])[0], kit.codes([passages[at] for at in sound]))


@pytest.mark.parametrize("name", ["codes/c.1.0.0", "lengths/c.0", "text/1.arrow"])
@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_opening_notices_a_missing_or_truncated_file(memory: Store, name: str, fault: str) -> None:
    key = f"segments/seg-job-0/{name}"
    if fault == "missing":
        memory.delete(key)
    else:
        memory.put(key, memory.read(key)[:-1])
    with pytest.raises(DamageError, match=f"segment seg-job-0, shard [01]: {re.escape(name)}.*verify"):
        Memory.open(memory)
    Memory.open(memory, check=False)


@pytest.mark.parametrize("fault", ["missing", "truncated", "flipped"])
def test_a_lost_or_damaged_id_map_is_built_again(
    memory: Store, passages: list[Any], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMMER_CACHE", str(tmp_path / "cache"))  # of a machine that has not read this memory
    key = "indexes/2/ids.map"
    content = bytearray(memory.read(key))
    if fault == "missing":
        memory.delete_tree("indexes")
    else:
        content[4096 + 8 * 30 + 7] ^= 64
        memory.put(key, bytes(content if fault == "flipped" else content[:5000]))
    opened = Memory.open(memory)
    where = opened.locate([passage.passage_id for passage in passages])
    assert opened.ids(where) == [passage.passage_id for passage in passages]
    assert len(memory.read(key)) == len(content)
    assert Memory.open(memory).locate([passages[3].passage_id])[0] == where[3]


def test_an_id_map_is_not_used_for_another_version(memory: Store) -> None:
    memory.put("indexes/2/ids.map", memory.read("indexes/1/ids.map"))
    opened = Memory.open(memory)
    assert len(opened.ids(np.arange(COUNT))) == COUNT


def test_inspect_counts_what_is_there(memory: Store, passages: list[Any]) -> None:
    found = inspect_memory(Memory.open(memory))
    lengths = np.array([len(passage.tokens) for passage in passages])
    assert found.to_json() | {"histogram": 0, "bytes_on_disk": 0, "bytes_per_token": 0} == {
        "version": 2,
        "articles": 384,
        "passages": COUNT,
        "tokens": int(lengths.sum()),
        "segments": 2,
        "rows": COUNT,
        "codec": "int8",
        "code_bytes": 16,
        "encoder": "tiny",
        "fingerprint": "ab" * 32,
        "window": 8,
        "histogram": 0,
        "bytes_on_disk": 0,
        "bytes_per_token": 0,
    }
    assert [bar[2] for bar in found.histogram] == np.bincount(lengths, minlength=9)[1:].tolist()
    ours = [entry for part in ("segments", "passages") for entry in memory.walk(part) if entry.kind == "file"]
    skipped = ("zarr.json", "digests.arrow")
    counted = sum(entry.size for entry in ours if entry.name not in skipped and "_delta_log" not in entry.key)
    assert found.bytes_on_disk == counted + len(memory.read("memory.json"))


def test_a_memory_may_stand_at_an_awkward_path(tmp_path: Path, kit: Any) -> None:
    with pytest.raises(UsageError, match="without"):
        kit.memory(tmp_path / "a%20b", 3)
    assert not (tmp_path / "a%20b").exists()
    path = kit.memory(tmp_path / "a b#ü?" / "m", 30)
    memory = Memory.open(path)
    assert memory.fetch(np.arange(30))[1].sum() == memory.tokens
    moved = path.rename(tmp_path / "moved")
    assert Memory.open(moved).fetch(np.arange(30))[1].sum() == memory.tokens
