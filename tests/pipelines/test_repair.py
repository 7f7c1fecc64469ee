"""Repair: whatever verify finds is put back as it was, moved to a new segment, or named as lost; nothing in between."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glimmer import MismatchError, UsageError
from glimmer.pipelines.encode import encode
from glimmer.pipelines.maintenance.compact import compact
from glimmer.pipelines.maintenance.repair import repair
from glimmer.pipelines.refresh import refresh
from glimmer.reader.serving.retrieval_index import open_index
from glimmer.storage.catalog import Catalog
from glimmer.storage.healing import RemadeShard, unflipped
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify

Content = dict[str, tuple[bytes, object]]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", with_decoder=False)


@pytest.fixture(scope="module", params=["int8", pytest.param("pq:bytes=6", marks=pytest.mark.slow)])
def original(
    model: Path,
    tiny_corpus: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> tuple[Path, Path]:
    """(memory, corpus): two versions and two segments, the first with two shards."""
    place = tmp_path_factory.mktemp("original")
    corpus = tiny_corpus(place / "corpus.jsonl", 420)
    encode(sources=[str(corpus)], memory=place / "m", model=str(model), codec=request.param)
    lines = corpus.read_text().splitlines()
    corpus.write_text("\n".join([*lines[7:], lines[0].replace('"text": "', '"text": "New words. ')]) + "\n")
    refresh(sources=[str(corpus)], memory=place / "m")
    assert len(Memory.open(place / "m").segments) == 2
    return place / "m", corpus


@pytest.fixture
def memory(original: tuple[Path, Path], tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", original[0], tmp_path / "m"], check=True)
    return tmp_path / "m"


def content(memory: Path) -> Content:
    opened = Memory.open(memory)
    where = np.arange(opened.passages)
    codes, _ = opened.fetch(where)
    return {text.passage_id: (code.tobytes(), text) for code, text in zip(codes, opened.texts(where), strict=True)}


def files(memory: Path) -> dict[str, bytes]:
    kept = ("segments", "passages", "codec", "memory.json")
    found = [path for path in memory.rglob("*") if path.is_file() and path.relative_to(memory).parts[0] in kept]
    return {str(path.relative_to(memory)): path.read_bytes() for path in found}


def big(memory: Path) -> Path:
    """The live segment with two shards."""
    segments = Catalog(memory).read_manifest(Catalog(memory).latest_version()).segments
    return memory / "segments" / max(segments, key=lambda name: segments[name].rows)


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << (bit % 8)
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flip": lambda path: flip(path, 8 * (path.stat().st_size // 2) + 3),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "gone": lambda path: path.unlink(),
    "garbage": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["codes/c.0.0.0", "codes/c.1.0.0", "lengths/c.0", "codes/zarr.json", "zarr.json", "digests.arrow"]
)
def test_what_follows_from_something_whole_is_put_back_to_the_byte(memory: Path, name: str, damage: str) -> None:
    before = files(memory)
    DAMAGES[damage](big(memory) / name)
    assert not verify(memory).sound
    result = repair(memory=memory)
    assert result.sound, result.remaining
    assert (result.new_version, result.lost) == (None, [])
    assert files(memory) == before
    assert verify(memory).sound


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_id_map_is_built_again(memory: Path, damage: str) -> None:
    expected = content(memory)
    DAMAGES[damage](memory / "indexes" / "2" / "ids.map")
    assert repair(memory=memory).sound
    assert content(memory) == expected


def test_a_damaged_first_stage_index_is_built_again(memory: Path) -> None:
    open_index(Memory.open(memory))
    place = memory / "indexes" / "2" / "bm25"
    assert repair(memory=memory).found == 0
    DAMAGES["flip"](max((path for path in place.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size))
    result = repair(memory=memory)
    assert (result.found, result.repaired) == (1, {"indexes/2/bm25": "built again from the texts"})
    assert repair(memory=memory).found == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_catalog_file_is_written_again_to_the_byte(memory: Path, damage: str) -> None:
    before = files(memory)
    DAMAGES[damage](memory / "passages" / Memory.open(memory).manifest.files[0].name)
    result = repair(memory=memory)
    assert result.sound, result.remaining
    assert files(memory) == before


@pytest.mark.parametrize(
    "name", ["memory.json", f"passages/_delta_log/{0:020d}.json", f"passages/_delta_log/{1:020d}.json"]
)
def test_a_flipped_bit_in_what_exists_once_is_turned_back(memory: Path, name: str) -> None:
    before = files(memory)
    flip(memory / name, 8 * 300 + 1)
    assert not verify(memory).sound
    assert repair(memory=memory).sound
    assert files(memory) == before


def test_all_kinds_at_once(memory: Path) -> None:
    before = files(memory)
    for number, name in enumerate(["codes/c.0.0.0", "codes/c.1.0.0", "lengths/c.1", "lengths/zarr.json"]):
        DAMAGES[list(DAMAGES)[number]](big(memory) / name)
    flip(memory / "passages" / f"_delta_log/{1:020d}.json", 999)
    assert repair(memory=memory).sound
    assert files(memory) == before


def lose_text(memory: Path, rows: int = 1) -> list[str]:
    """Damages the text of the first `rows` rows of shard 0; the ids of their live passages."""
    opened = Memory.open(memory)
    path = big(memory) / "text/0.arrow"
    at = next(n for n, reader in enumerate(opened.readers) if reader.store.local_path(reader.key) == big(memory))
    segment, row = opened.rows(np.arange(opened.passages))
    first = np.flatnonzero((segment == at) & (row < 1024))
    chosen = first[np.argsort(row[first])][:rows]
    data = bytearray(path.read_bytes())
    for passage in opened.texts(chosen):
        start = data.index(passage.text.encode())
        data[start : start + 3] = b"\x00\x00\x00"
    path.write_bytes(data)
    return opened.ids(chosen)


def test_lost_text_is_named_and_does_not_stand_in_the_way_of_codes(memory: Path) -> None:
    expected = files(memory)
    [lost] = lose_text(memory)
    whole = big(memory) / "codes/c.0.0.0"
    flip(whole, 8 * 3 + 1)  # the chunk of another row
    result = repair(memory=memory)
    assert not result.sound
    assert result.lost == [lost]
    name = str(whole.relative_to(memory))
    assert files(memory)[name] == expected[name], "the codes of all rows are back"
    [damage] = result.remaining
    assert (damage.kind, damage.passages) == ("text", (lost,))
    assert "glimmer repair --drop" in damage.remedy
    assert "glimmer refresh" in damage.remedy


def test_lost_text_and_lost_codes_of_one_shard_save_every_other_row(memory: Path) -> None:
    expected = content(memory)
    lost = lose_text(memory, 2)
    (big(memory) / "codes/c.0.0.0").unlink()
    result = repair(memory=memory)
    assert sorted(result.lost) == sorted(lost)
    assert result.new_version == 3
    opened = Memory.open(memory, check=False)
    others = [name for name in expected if name not in lost]
    where = opened.locate(others)
    codes, texts = opened.fetch(where)[0], opened.texts(where)
    assert {t.passage_id: (c.tobytes(), t) for c, t in zip(codes, texts, strict=True)} == {
        name: expected[name] for name in others
    }
    assert opened.passages == len(expected), "nothing is dropped unless that is asked for"


def test_dropped_passages_come_back_with_a_refresh(memory: Path, original: tuple[Path, Path]) -> None:
    expected = content(memory)
    lost = lose_text(memory, 3)
    result = repair(memory=memory, drop=True)
    assert result.sound
    assert sorted(result.dropped) == sorted(lost)
    assert verify(memory).sound
    assert content(memory) == {name: value for name, value in expected.items() if name not in lost}
    refresh(sources=[str(original[1])], memory=memory)
    assert content(memory) == expected


def test_text_is_taken_from_another_version_that_has_it(memory: Path) -> None:
    expected = content(memory)
    compact(memory=memory, dead_share=0)
    lose_text(memory)
    result = repair(memory=memory)
    assert result.sound, result.remaining
    assert result.lost == []
    assert content(memory) == expected


def test_where_equal_bytes_cannot_be_had_the_rows_move_to_a_new_segment(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with another build of the compressor: what is written is right, but not the recorded bytes."""
    expected = content(memory)
    (big(memory) / "codes/c.1.0.0").unlink()
    monkeypatch.setattr(RemadeShard, "put_back", lambda *_: False)
    result = repair(memory=memory)
    assert result.sound, result.remaining
    assert result.new_version == 4, "the restored rows, then what else the segment held"
    assert result.moved > 0
    assert content(memory) == expected
    operations = [(entry.operation, entry.rows_added, entry.rows_removed) for entry in Memory.open(memory).history()]
    assert operations[:2] == [("compact", 0, 0), ("repair", 0, 0)]


def test_the_model_must_be_the_memorys(memory: Path, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    (big(memory) / "codes/c.0.0.0").unlink()
    with pytest.raises(MismatchError, match="fingerprint"):
        repair(memory=memory, model=str(tiny_model(tmp_path / "other", with_decoder=False, seed=5)))
    with pytest.raises(UsageError):
        repair(memory=memory, model=str(tmp_path / "nothing"))


def test_what_cannot_be_made_again_says_restore_from_a_copy(memory: Path) -> None:
    path = memory / "memory.json"
    path.write_bytes(path.read_bytes()[:200])
    result = repair(memory=memory)
    assert not result.sound
    assert all("from a copy" in damage.remedy for damage in result.remaining)


def test_the_command_says_what_it_did_and_its_status_tells(memory: Path) -> None:
    def run() -> subprocess.CompletedProcess[str]:
        code = "from glimmer.pipelines.cli.program import main; main()"
        command = [sys.executable, "-c", code, "repair", str(memory)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    (big(memory) / "lengths/c.0").unlink()
    done = run()
    assert done.returncode == 0, done.stderr
    assert "damaged places: 1 found, 0 left" in done.stdout
    assert "lengths/c.0: put back as it was written" in done.stdout
    again = run()
    assert "nothing to do, version 2 is whole" in again.stdout


def test_one_bit_is_found_and_two_are_not() -> None:
    content = os.urandom(700)
    wanted = hashlib.sha256(content).hexdigest()
    for bit in (0, 7, 2801, 5599):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << (bit % 8)
        assert unflipped(bytes(damaged), wanted) == content
        damaged[350] ^= 0x18
        assert unflipped(bytes(damaged), wanted) is None
