"""All texts in the order of ids: the same whether they are read directly or sorted through files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glimmer import DamageError, StorageError
from glimmer.progress import Quiet
from glimmer.reader.serving import texts_by_id as module
from glimmer.reader.serving.texts_by_id import texts_by_id
from glimmer.storage.memory import Memory


class Stages(Quiet):
    """Notes the stages that there are, and how far each came."""

    def __init__(self) -> None:
        self.reached: dict[str, int] = {}

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        self.reached[name] = 0

    def at(self, amount: float, *, total: float | None = None) -> None:
        self.reached[next(reversed(self.reached))] = int(amount)


@pytest.fixture
def memory(kit: Any, tmp_path: Path) -> Memory:
    """Three text shards in two segments."""
    return Memory.open(kit.memory(tmp_path / "m", 1100, 150))


def read(memory: Memory, place: Path, progress: Quiet | None = None) -> list[tuple[str, str, str]]:
    with texts_by_id(memory, place, progress or Quiet()) as texts:
        return [text for some in texts for text in some]


def test_texts_sorted_through_files_are_those_read_directly(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "indexes" / "bm25"
    directly = read(memory, place)
    assert [name for name, _, _ in directly] == sorted(name for name, _, _ in directly)
    assert len(directly) == memory.passages
    assert not place.parent.exists()
    monkeypatch.setattr(module, "OPEN_TEXT_SHARDS", 2)
    monkeypatch.setattr(module, "_FILE_PASSAGES", 100)
    stages = Stages()
    assert read(memory, place, stages) == directly
    assert stages.reached == {"sort texts": memory.passages}
    assert list(place.parent.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error_of_ours(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_TEXT_SHARDS", 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        read(memory, tmp_path / "file" / "bm25")


def test_a_damaged_text_stops_it_and_leaves_nothing(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPEN_TEXT_SHARDS", 2)
    shard = tmp_path / "m" / "segments" / "seg-job-1" / "text" / "0.arrow"
    shard.write_bytes(shard.read_bytes().replace(b"Text of passage 1200", b"Text of passage 9200"))
    place = tmp_path / "indexes" / "bm25"
    with pytest.raises(DamageError, match="seg-job-1"):
        read(memory, place)
    assert list(place.parent.iterdir()) == []
