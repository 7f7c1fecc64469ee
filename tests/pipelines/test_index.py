"""The first-stage index of a version: built when needed, kept while sound, never stale, wherever it can be written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glimmer import UsageError
from glimmer.pipelines.encode import encode
from glimmer.progress import Quiet
from glimmer.reader.serving.retrieval import MANIFEST, Bm25Index
from glimmer.reader.serving.retrieval_index import open_index
from glimmer.storage.memory import Memory
from glimmer.storage.stores.sealed import seal
from glimmer.storage.verify import verify


class Heard(Quiet):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture(scope="module")
def original(
    tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Callable[..., Path], tiny_model: Callable[..., Path]
) -> Path:
    home = tmp_path_factory.mktemp("index")
    model = tiny_model(home / "m", with_decoder=False, window=48)
    encode(sources=[str(tiny_corpus(home / "c.jsonl", 20))], memory=home / "memory", model=str(model), passage_words=16)
    return home / "memory"


@pytest.fixture
def memory(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Memory:
    """A memory of one's own, and a cache directory of one's own."""
    monkeypatch.setenv("GLIMMER_CACHE", str(tmp_path / "cache"))
    return Memory.open(shutil.copytree(original, tmp_path / "memory"))


def home_of(memory: Memory) -> Path:
    return Path(memory.location) / "indexes" / "1" / "bm25"


def made_at(index: Bm25Index) -> int:
    return (index.directory / MANIFEST).stat().st_mtime_ns


def test_positions_are_the_memorys(memory: Memory) -> None:
    index = open_index(memory)
    assert index.directory == home_of(memory)
    assert index.count == memory.passages
    (passage,) = memory.texts(np.array([7]))
    (hits,) = index.search([f"{passage.title} {passage.text}"], 1)
    assert hits.positions.tolist() == [7]


def test_a_sound_index_is_kept(memory: Memory) -> None:
    before = made_at(open_index(memory))
    assert made_at(open_index(memory)) == before
    assert made_at(open_index(memory, rebuild=True)) != before


def test_an_index_of_other_content_is_rebuilt(memory: Memory) -> None:
    """Such as a version of the same number in a memory that was made anew at the same place."""
    path = open_index(memory).directory / MANIFEST
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    path.unlink()
    seal(path.parent, MANIFEST, {**content, "of": {**content["of"], "content": "0" * 64}})
    open_index(memory)
    assert json.loads(path.read_text())["of"]["content"] == memory.manifest.content_sha256


def test_a_cut_index_is_rebuilt_when_opened(memory: Memory) -> None:
    index = open_index(memory)
    largest = max(index.directory.iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    assert open_index(memory).verify() == []


def test_an_index_of_the_format_before_is_rebuilt_without_a_word(memory: Memory) -> None:
    path = open_index(memory).directory / MANIFEST
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    path.write_text(json.dumps({**content, "format_version": 1, "tokenizer": "en_stem"}))
    assert verify(memory.location).sound
    heard = Heard()
    assert open_index(memory, progress=heard).count == memory.passages
    assert heard.said == []
    assert json.loads(path.read_text())["format_version"] == 2


def test_a_flipped_bit_is_found_when_it_is_opened(memory: Memory) -> None:
    index = open_index(memory)
    largest = max((p for p in index.directory.iterdir() if p.name != MANIFEST), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    assert index.verify() == [largest.name]
    heard = Heard()
    assert open_index(memory, progress=heard).verify() == []
    assert heard.said == [
        f"the index {index.directory} is damaged: {largest.name} its SHA-256 is not the recorded one; it is built again"
    ]


def test_where_the_memory_cannot_be_written_it_goes_to_the_cache(memory: Memory, tmp_path: Path) -> None:
    shutil.rmtree(Path(memory.location) / "indexes" / "1")
    (Path(memory.location) / "indexes" / "1").write_text("in the way")
    heard = Heard()
    index = open_index(memory, progress=heard)
    assert index.directory.is_relative_to(tmp_path / "cache")
    assert heard.said == [f"the index cannot be put into {memory.location}, it is kept in {index.directory}"]
    assert made_at(open_index(memory)) == made_at(index)


@pytest.mark.parametrize("linked", ["indexes", "indexes/1", "indexes/1/bm25"])
def test_nothing_is_built_through_a_link(memory: Memory, tmp_path: Path, linked: str) -> None:
    """What is replaced there would be somebody else's."""
    theirs, path = tmp_path / "theirs", Path(memory.location) / linked
    place = theirs / Path("indexes/1/bm25").relative_to(linked)
    place.mkdir(parents=True)
    (place / "letter").write_text("dear")
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(theirs)
    assert open_index(memory).directory.is_relative_to(tmp_path / "cache")
    assert [each.name for each in place.iterdir()] == ["letter"]


def test_where_nothing_can_be_written_it_lives_as_long_as_it_is_used(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(Path(memory.location) / "indexes" / "1")
    (Path(memory.location) / "indexes" / "1").write_text("in the way")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GLIMMER_CACHE", str(tmp_path / "file"))
    index = open_index(memory)
    directory = index.directory
    assert index.search(["kalo"], 3)[0].positions.size
    del index
    assert not directory.exists()


def test_a_version_without_passages_has_no_index(memory: Memory) -> None:
    with pytest.raises(UsageError, match="version 0 holds no passages"):
        open_index(Memory.open(memory.location, 0))
