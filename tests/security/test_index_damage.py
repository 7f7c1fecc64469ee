"""Damage of the first-stage index: not one flipped bit gives other passages, and every one is told and mended."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from glimmer import DamageError
from glimmer.pipelines.cli.group import run
from glimmer.pipelines.maintenance.repair import repair
from glimmer.progress import Quiet
from glimmer.reader.serving.retrieval import MANIFEST, Bm25Index
from glimmer.reader.serving.retrieval_index import index_manifest, open_index
from glimmer.storage.memory import Memory
from glimmer.storage.stores.sealed import read_seal, seal
from glimmer.storage.verify import verify

QUESTIONS = ["passage 7 façade", "Title 3", "東京", "text xxxxxxxxx", "nothing"]


class Heard(Quiet):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMMER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def indexed(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    memory: Path = kit.memory(tmp_path_factory.mktemp("damage") / "m", 60)
    open_index(Memory.open(memory))
    return memory


@pytest.fixture
def memory(indexed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(indexed, tmp_path / "m"))


def place(memory: Path) -> Path:
    return memory / "indexes" / "1" / "bm25"


def hits(index: Bm25Index) -> list[tuple[list[int], list[float]]]:
    return [(found.positions.tolist(), found.scores.tolist()) for found in index.search(QUESTIONS, 10)]


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def try_flips(memory: Path, flips: int, seed: int) -> None:
    """Flips one bit at a time, in files chosen evenly and anywhere in them."""
    opened, chance = Memory.open(memory), random.Random(seed)
    expected = hits(open_index(opened))
    whole = shutil.copytree(place(memory), memory.parent / "whole")
    for _ in range(flips):
        path = chance.choice(sorted(place(memory).iterdir()))
        bit = chance.randrange(8 * path.stat().st_size)
        flip(path, bit)
        (damage,) = [item for item in verify(memory).damages if item.kind == "index"]
        assert (damage.path, damage.remedy) == (
            str(path.relative_to(memory)),
            f"run `glimmer repair {memory}`",
        )
        with pytest.raises(DamageError, match="is damaged"):
            Bm25Index.open(place(memory), index_manifest(opened))
        heard = Heard()
        assert hits(open_index(opened, progress=heard)) == expected, (path, bit)
        assert [line.endswith("it is built again") and path.name in line for line in heard.said] == [True]
        assert verify(memory).sound
        shutil.rmtree(place(memory))
        shutil.copytree(whole, place(memory))


def test_a_flipped_bit_anywhere_is_told_and_the_index_built_again(memory: Path) -> None:
    try_flips(memory, 25, 1)


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_told_and_the_index_built_again_many_times(memory: Path) -> None:
    try_flips(memory, 500, 2)


def test_every_bit_of_a_manifest_counts(memory: Path) -> None:
    """Also those that JSON does not mind, such as in a space."""
    path, opened = place(memory) / MANIFEST, Memory.open(memory)
    content = path.read_bytes()
    for bit in random.Random(3).sample(range(8 * len(content)), 200):
        flip(path, bit)
        with pytest.raises(DamageError):
            Bm25Index.open(place(memory), index_manifest(opened))
        path.write_bytes(content)


def test_commands_answer_from_a_damaged_index_what_they_answer_from_a_whole_one(
    memory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["search", str(memory), "façade"]) == 0
    expected = capfd.readouterr().out
    largest = max(place(memory).glob("*.idx"), key=lambda path: path.stat().st_size)
    flip(largest, 4 * largest.stat().st_size)
    with pytest.raises(SystemExit, match="1"):
        run(["verify", str(memory)])
    out = capfd.readouterr().out
    assert f"index: indexes/1/bm25/{largest.name}: its SHA-256 is not the recorded one; run `glimmer repair" in out
    assert run(["search", str(memory), "façade"]) == 0
    found = capfd.readouterr()
    assert found.out == expected
    assert f"{largest.name} its SHA-256 is not the recorded one; it is built again" in found.err
    assert run(["verify", str(memory)]) == 0


def test_glimmer_index_builds_a_damaged_one_again(memory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flip(place(memory) / "meta.json", 100)
    assert run(["index", str(memory)]) == 0
    assert "meta.json its SHA-256 is not the recorded one; it is built again" in capfd.readouterr().err
    assert run(["verify", str(memory)]) == 0


@pytest.mark.parametrize("name", [MANIFEST, "meta.json"])
def test_repair_builds_it_again(memory: Path, name: str) -> None:
    expected = hits(open_index(Memory.open(memory)))
    (place(memory) / name).unlink()
    result = repair(memory=memory)
    assert result.sound
    assert (result.found, result.new_version) == (1, None)
    assert result.repaired == {"indexes/1/bm25": "built again from the texts"}
    assert hits(open_index(Memory.open(memory))) == expected


def test_a_damaged_index_over_lost_texts_stays_damaged_and_both_are_told(memory: Path) -> None:
    """The one case in which it cannot be built again."""
    (text,) = memory.glob("segments/*/text/*.arrow")
    text.unlink()
    flip(place(memory) / "meta.json", 100)
    result = repair(memory=memory)
    assert not result.sound
    assert {damage.kind for damage in result.remaining} == {"index", "text"}


FILES_THAT_ARE_NONE = {
    "a FIFO": lambda path: os.mkfifo(path),
    "a link to a device without end": lambda path: path.symlink_to("/dev/zero"),
    "a directory": lambda path: path.mkdir(),
    "a link to nothing": lambda path: path.symlink_to("/nowhere"),
}


@pytest.mark.parametrize("kind", FILES_THAT_ARE_NONE)
@pytest.mark.parametrize("name", [MANIFEST, "meta.json"])
def test_what_is_no_file_is_damage_at_once(memory: Path, name: str, kind: str) -> None:
    opened, path = Memory.open(memory), place(memory) / name
    expected = hits(open_index(opened))
    path.unlink()
    FILES_THAT_ARE_NONE[kind](path)
    assert [damage.path for damage in verify(memory).damages] == [f"indexes/1/bm25/{name}"]
    assert hits(open_index(opened)) == expected
    assert verify(memory).sound


def resealed(memory: Path, **changes: Any) -> None:
    """A manifest whose digests are right, as somebody who makes up an index would write it."""
    content = read_seal(place(memory) / MANIFEST)
    assert content is not None
    (place(memory) / MANIFEST).unlink()
    seal(place(memory), MANIFEST, {**content, **changes})


@pytest.mark.parametrize("suffix", [".idx", ".term", ".fast", ".fieldnorm", ".store", ".pos", "meta.json"])
@pytest.mark.parametrize("filled", ["zeros", "ones", "cut", "shuffled"])
def test_made_up_files_with_right_digests_never_crash(memory: Path, suffix: str, filled: str) -> None:
    """tantivy's Rust code panics on some: one error of ours, or passages that exist, but never a traceback."""
    path = next(path for path in place(memory).iterdir() if path.name.endswith(suffix))
    content = path.read_bytes()
    shuffled = bytearray(content)
    random.Random(4).shuffle(shuffled)
    path.write_bytes(
        {
            "zeros": bytes(len(content)),
            "ones": b"\xff" * len(content),
            "cut": content[: len(content) // 2],
            "shuffled": bytes(shuffled),
        }[filled]
    )
    resealed(memory)
    opened = Memory.open(memory)
    with contextlib.suppress(DamageError):
        for found in open_index(opened).search(QUESTIONS, 10):
            assert all(0 <= position < opened.passages for position in found.positions)


@pytest.mark.parametrize(
    "changes",
    [
        {"passages": -1},
        {"passages": "60"},
        {"passages": 10**30},
        {"passages": 59},
        {"language": "klingon"},
        {"of": None},
        {"with_characters": {}},
        {"with_characters": {"title_characters": 2.5, "text_characters": 1}},
        {"passages_digest": 7},
    ],
)
def test_a_made_up_manifest_with_a_right_digest_is_damage(memory: Path, changes: dict[str, Any]) -> None:
    expected = hits(open_index(Memory.open(memory)))
    resealed(memory, **changes)
    assert hits(open_index(Memory.open(memory))) == expected


def test_a_manifest_names_files_of_its_own_directory_only(memory: Path) -> None:
    path = place(memory) / MANIFEST
    raw = path.read_text().replace('"meta.json"', '"../../../../../etc/passwd"')
    path.write_text(raw)
    with pytest.raises(DamageError):
        read_seal(path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"", b"\xff\xfe", b'{"files": {}}', b" " * (2 << 20)])
def test_a_manifest_that_is_none_is_damage(memory: Path, content: bytes) -> None:
    expected = hits(open_index(Memory.open(memory)))
    (place(memory) / MANIFEST).write_bytes(content)
    assert not verify(memory).sound
    assert hits(open_index(Memory.open(memory))) == expected
