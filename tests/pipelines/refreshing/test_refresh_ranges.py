"""A refresh planned in ranges, in this process or in several: the version that one stream gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from changing import payload, texts, write
from small_world import assert_same_memory

from glimmer.pipelines.encode import encode
from glimmer.pipelines.engines import Engine
from glimmer.pipelines.refresh import RefreshResult, refresh

TINY = 900  # bytes: a range for every second article


def both(memory: Path, source: Path, engine: Engine, **options: Any) -> tuple[Path, RefreshResult]:
    """Refreshes two copies of a memory, one from a single range; they are the same. The other, and what it says."""
    one, many = (Path(shutil.copytree(memory, memory.parent / name)) for name in ("one", "many"))
    results = [
        refresh(sources=[source], memory=one, **options),
        refresh(sources=[source], memory=many, range_bytes=TINY, engine=engine, **options),
    ]
    apart = {"seconds": {}, "memory": "", "rejects": "", "workers": []}
    first, second = (result.to_json() | apart for result in results)
    assert first["plan"].pop("seconds") != second["plan"].pop("seconds")
    first.pop("bytes_written"), second.pop("bytes_written")  # the manifest has the plan's seconds
    assert second == first
    rejects = [Path(str(result.rejects)).read_bytes() for result in results if result.rejects is not None]
    assert len(rejects) in (0, 2)
    assert rejects[:1] == rejects[1:]
    assert_same_memory(many, one)
    return many, results[1]


def changed(corpus: dict[str, list[str]]) -> dict[str, list[str]]:
    corpus["a3"][1] = "Another second paragraph."
    corpus["a7"].insert(0, "")
    corpus["a20"] = ["Same words. " * 40] * 3
    corpus |= {f"new{i}": body for i, body in enumerate(texts(4, 31).values())}
    del corpus["a5"], corpus["a30"]
    return corpus


@pytest.mark.parametrize("workers", [1, 2])
def test_a_whole_corpus(memory: Path, corpus: dict[str, list[str]], model: Path, workers: int) -> None:
    wanted = changed(corpus)
    source = write(memory.parent / "next.jsonl", wanted)
    lines = source.read_text().splitlines()
    lines[4:4] = ["{broken", '{"wikipedia_id": "a30", "wikipedia_title": "T", "text": ["T"]}']
    lines += [lines[0], '{"wikipedia_title": "T", "text": ["T", "whose?"]}', lines[20]]
    source.write_text("\n".join(lines))
    refreshed, result = both(memory, source, Engine(workers=workers), remove_absent=True)
    assert result.plan.rejected == {"broken_json": 1, "duplicate_id": 2, "empty_text": 1, "missing_field": 1}
    assert (result.counts.articles_kept_rejected, result.counts.articles_removed) == (1, 1)
    wanted["a30"] = texts(31)["a30"]  # its record was rejected, so it stays
    encode(sources=[write(memory.parent / "whole.jsonl", wanted)], memory=memory.parent / "fresh", model=str(model))
    assert payload(refreshed) == payload(memory.parent / "fresh")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_feed_of_changes(memory: Path, corpus: dict[str, list[str]], model: Path, workers: int) -> None:
    def record(name: str, *body: str) -> str:
        return json.dumps(
            {"wikipedia_id": name, "wikipedia_title": f"Title of {name}", "text": [f"Title of {name}", *body]}
        )

    feed = [
        record("a1", "First."),
        *(record(f"n{i}", f"New text {i}.") for i in range(30)),
        record("a2"),
        record("a1", "The last text of all."),
        record("n3"),
        record("a4", "Cut short")[:-4],
        record("a2", "Back again."),
        record("a9"),
        "{whose?",
    ]
    source = memory.parent / "feed.jsonl"
    source.write_text("\r\n".join(feed))
    refreshed, result = both(memory, source, Engine(workers=workers), partial=True)
    assert (result.counts.records_superseded, result.counts.articles_removed_empty) == (3, 1)
    corpus |= {"a1": ["The last text of all."], "a2": ["Back again."]} | {
        f"n{i}": [f"New text {i}."] for i in range(30)
    }
    del corpus["a9"], corpus["n3"]
    encode(sources=[write(memory.parent / "whole.jsonl", corpus)], memory=memory.parent / "fresh", model=str(model))
    assert payload(refreshed) == payload(memory.parent / "fresh")
