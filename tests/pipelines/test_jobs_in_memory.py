"""Jobs on a memory that has no files: what a job does, it does through the memory's store."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from changing import payload

from glimmer.pipelines.encode import encode
from glimmer.pipelines.maintenance.compact import compact
from glimmer.pipelines.maintenance.repair import repair
from glimmer.pipelines.maintenance.rollback import rollback
from glimmer.pipelines.maintenance.vacuum import vacuum
from glimmer.pipelines.refresh import refresh
from glimmer.storage.memory import Memory
from glimmer.storage.stores import InMemoryStore
from glimmer.storage.verify import verify


@pytest.fixture
def place() -> Iterator[str]:
    yield "memory://jobs"
    InMemoryStore("memory://jobs").forget()


def test_every_job_runs_on_a_memory_of_the_process(
    place: str, tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMMER_CACHE", str(tmp_path / "cache"))
    model, source = str(tiny_model(tmp_path / "model", with_decoder=False)), tmp_path / "corpus.jsonl"

    def corpus(articles: int) -> list[str]:
        lines = [f'{{"id": "{n}", "title": "T{n}", "text": "the number {n} and what it is"}}' for n in range(articles)]
        source.write_text("\n".join([*lines, "{broken"]))
        return [str(source)]

    made = encode(sources=corpus(30), memory=place, model=model)
    assert (made.version, made.memory) == (1, place)
    assert str(made.rejects).startswith(f"{place}/jobs/encode-")
    assert encode(sources=[str(source)], memory=place, model=model).nothing_to_do
    encode(sources=[str(source)], memory=tmp_path / "local", model=model)
    assert payload(place) == payload(tmp_path / "local"), "equal to the byte, wherever it lies"
    refreshed = refresh(sources=corpus(20), memory=place, max_removed=1.0, remove_absent=True, index=True)
    assert (refreshed.version, refreshed.counts.articles_removed) == (2, 10)
    assert compact(memory=place, dead_share=0).version == 3
    assert rollback(memory=place, to=1).version == 4
    store = InMemoryStore(place)
    [segment] = Memory.open(place).segments
    store.delete(f"segments/{segment}/codes/c.0.0.0")
    assert repair(memory=place, model=model).sound
    assert vacuum(memory=place, older_than=datetime.timedelta(0), keep_versions=1).segments == 1
    assert verify(place).sound
    assert payload(place) == payload(tmp_path / "local")
