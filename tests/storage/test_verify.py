"""verify: silent about a sound memory, and of any damage it says what, where, which passages and what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from glimmer import DamageError
from glimmer.storage.memory import Memory
from glimmer.storage.stores import Store
from glimmer.storage.verify import Damage, verify


def flip(store: Store, key: str, bit: int) -> None:
    flipped = bytearray(store.read(key))
    flipped[bit // 8] ^= 1 << (bit % 8)
    store.put(key, bytes(flipped))


def only(store: Store) -> Damage:
    damages = verify(store).damages
    assert len(damages) == 1, [str(damage) for damage in damages]
    return damages[0]


def test_a_sound_memory_is_read_whole(memory: Store) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(memory, progress=lambda done, total: seen.append((done, total)))
    assert report.sound
    assert (report.version, report.passages, report.shards) == (2, 1150, 3)
    assert report.tokens == Memory.open(memory).tokens
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert verify(memory, version=1).passages == 1100


def test_a_damaged_shard_is_named_with_its_passages_and_the_command(memory: Store, kit: Any) -> None:
    memory.delete("segments/seg-job-0/codes/c.1.0.0")
    found = only(memory)
    assert (found.kind, found.segment, found.shard, found.count) == ("codes", "seg-job-0", 1, 76)
    assert found.path == "segments/seg-job-0/codes/c.1.0.0"
    assert set(found.passages) == {kit.passage(number).passage_id for number in range(1024, 1029)}
    assert found.remedy == f"run `glimmer repair {memory.location}`"
    assert re.search(r"shard 1\): is missing; passages [0-9a-f, ]+ and 71 more; run `glimmer repair", str(found))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("segments/seg-job-0/codes/c.0.0.0", "codes"),
        ("segments/seg-job-0/lengths/c.0", "lengths"),
        ("segments/seg-job-0/text/0.arrow", "text"),
        ("segments/seg-job-0/digests.arrow", "digests"),
        ("segments/seg-job-0/codes/zarr.json", "metadata"),
        ("segments/seg-job-1/zarr.json", "metadata"),
        ("indexes/2/ids.map", "index"),
        ("memory.json", "identity"),
        ("passages/_delta_log/00000000000000000001.json", "catalog-log"),
    ],
)
@pytest.mark.parametrize("fault", ["flipped", "truncated", "missing"])
def test_every_kind_of_file_is_checked(memory: Store, name: str, kind: str, fault: str) -> None:
    content = memory.read(name)
    if fault == "flipped":
        flip(memory, name, 8 * min(150, len(content) // 2) + 3)
    elif fault == "truncated":
        memory.put(name, content[:-3])
    else:
        memory.delete(name)
    if fault == "missing" and kind == "index":
        assert verify(memory).sound, "an index is derived: a missing one is built again"
        return
    kinds = [damage.kind for damage in verify(memory).damages]
    assert kinds
    assert kinds[0] == kind
    if kind not in ("catalog-log", "index"):
        assert kinds == [kind] or kind == "identity"


def test_a_damaged_catalog_file_is_named(memory: Store) -> None:
    name = next(name for name in memory.names("passages") if name.endswith(".parquet"))
    flip(memory, f"passages/{name}", 8 * 300)
    found = next(damage for damage in verify(memory).damages if damage.kind == "catalog")
    assert found.path == f"passages/{name}"
    assert found.count in (50, 1100)
    with pytest.raises(DamageError, match=name):
        list(Memory.open(memory).passage_table())


def test_text_that_is_whole_but_of_another_passage_is_found(memory: Store) -> None:
    """Both files are sound by themselves and bear each other's names, as after a wrong copy."""
    one, two = (f"segments/seg-job-0/text/{shard}.arrow" for shard in (0, 1))
    first, second = memory.read(one), memory.read(two)
    memory.put(one, second)
    memory.put(two, first)
    found = [(damage.kind, damage.shard) for damage in verify(memory).damages]
    assert found == [("text", 0), ("text", 1)]
