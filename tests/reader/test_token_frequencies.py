"""Token frequencies of a version: counted from its own passages, kept, and never those of anything else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from glimmer import DamageError
from glimmer.progress import Quiet
from glimmer.reader.serving import token_frequencies as module
from glimmer.reader.serving.token_frequencies import NAME, TokenFrequencies, count_tokens, open_token_frequencies
from glimmer.storage.memory import Memory, commit


@pytest.fixture
def memory(kit: Any, tmp_path: Path) -> Memory:
    """Three text shards in two segments."""
    return Memory.open(kit.memory(tmp_path / "m", 1100, 150))


def expected(memory: Memory) -> dict[int, int]:
    counts: Counter[int] = Counter()
    for passage in memory.texts(np.arange(memory.passages)):
        counts.update(set(passage.tokens.tolist()))
    return counts


def thinned(memory: Memory) -> Memory:
    """The next version, with two of three passages."""
    add = [table.filter(np.arange(table.num_rows) % 3 > 0) for table in _tables(memory)]
    names = [file.name for file in memory.manifest.files]
    commit(memory.location, base=memory.version, job="thinned", operation="refresh", add=add, remove=names)
    return Memory.open(memory.location)


def _tables(memory: Memory) -> list[pa.Table]:
    return [pa.table(batch) for batch in memory.passage_table()]


def as_dict(frequencies: TokenFrequencies) -> dict[int, int]:
    return {int(token): int(frequencies.counts[token]) for token in np.flatnonzero(frequencies.counts)}


def equal(one: TokenFrequencies, other: TokenFrequencies) -> bool:
    return one.passages == other.passages and np.array_equal(one.counts, other.counts)


def test_rare_tokens_weigh_more_and_those_of_all_passages_nothing() -> None:
    weights = TokenFrequencies(np.array([1000, 500, 3, 0], np.uint32), 1000).weights(np.array([0, 1, 2, 3, 9]))
    assert weights[0] == 0
    assert np.all(np.diff(weights[:4]) > 0)
    assert weights[3] == weights[4] == pytest.approx(np.log(1001)), "ids beyond the counts are in no passage"


def test_each_token_counts_once_for_each_passage_of_the_version(memory: Memory) -> None:
    assert as_dict(count_tokens(memory)) == expected(memory)


def test_rows_that_the_version_no_longer_has_do_not_count(memory: Memory) -> None:
    later = thinned(memory)
    assert later.passages < memory.passages
    assert as_dict(count_tokens(later)) == expected(later) != expected(memory)


class Counting(Quiet):
    """Notes the stages that there are."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        self.stages.append(name)


def test_they_are_counted_once_and_then_read(memory: Memory) -> None:
    progress = Counting()
    first = open_token_frequencies(memory, progress=progress)
    again = open_token_frequencies(Memory.open(memory.location), progress=progress)
    assert progress.stages == ["count tokens"]
    assert equal(first, again)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other version"])
def test_a_file_that_is_not_theirs_or_not_whole_is_counted_again(memory: Memory, damage: str) -> None:
    found = open_token_frequencies(memory)
    path = Path(memory.location) / memory.index_key / NAME
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "other version":
        memory = thinned(memory)
        (Path(memory.location) / memory.index_key).mkdir(exist_ok=True)
        path = Path(memory.location) / memory.index_key / NAME
        path.write_bytes(content)
        found = count_tokens(memory)
    else:
        path.write_bytes(content[:100] if damage == "cut" else b"")
    progress = Counting()
    assert equal(open_token_frequencies(memory, progress=progress), found)
    assert progress.stages == ["count tokens"]
    assert path.read_bytes() != content or damage != "other version"
    open_token_frequencies(memory, progress=progress)
    assert len(progress.stages) == 1


def test_where_the_memory_cannot_be_written_they_are_kept_in_the_cache(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMMER_CACHE", str(tmp_path / "cache"))
    put = module._put
    monkeypatch.setattr(module, "_put", lambda store, *rest: store is not memory.store and put(store, *rest))
    progress = Counting()
    first = open_token_frequencies(memory, progress=progress)
    assert not (Path(memory.location) / memory.index_key / NAME).exists()
    assert equal(open_token_frequencies(memory, progress=progress), first)
    assert progress.stages == ["count tokens"]


def test_a_damaged_text_is_an_error_that_names_its_file(memory: Memory) -> None:
    shard = Path(memory.location) / "segments" / "seg-job-1" / "text" / "0.arrow"
    shard.write_bytes(shard.read_bytes().replace(b"Text of passage 1200", b"Text of passage 9200"))
    with pytest.raises(DamageError, match="seg-job-1"):
        open_token_frequencies(memory)
