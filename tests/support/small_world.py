"""A small model, corpus and query file, and how to compare what jobs make of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glimmer.storage.files import TEMPORARY_PREFIX
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify


@dataclass(frozen=True)
class World:
    """A model, a corpus of about four shards, questions, and the memory that one process makes of the corpus."""

    model: Path
    corpus: Path
    questions: Path
    memory: Path


def segment_files(memory: Path) -> dict[str, bytes]:
    """Path -> content of all files of segments; what a killed process left under a temporary name is not content."""
    files = [path for path in (memory / "segments").rglob("*") if path.is_file()]
    kept = [path for path in files if not path.name.startswith(TEMPORARY_PREFIX)]
    return {str(path.relative_to(memory)): path.read_bytes() for path in kept}


def assert_same_memory(memory: Path, expected: Path) -> None:
    """The newest versions of two memories are the same bytes, the same rows, and sound."""
    found, wanted = Memory.open(memory), Memory.open(expected)
    assert found.version == wanted.version
    assert _rows(found) == _rows(wanted)
    assert segment_files(memory) == segment_files(expected)
    assert verify(memory).sound


def _rows(memory: Memory) -> list[dict[str, object]]:
    """The catalog's rows, in order."""
    columns = ["passage_id", "article_id", "segment", "row"]
    return [row for batch in memory.passage_table(columns) for row in batch.to_pylist()]
