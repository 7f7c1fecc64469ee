"""What has to work at 22 million passages, on a few thousand: the steps of benchmarks/scale.py, on sound memories."""

from __future__ import annotations

import importlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from glimmer.pipelines.maintenance.verification import verify
from glimmer.storage.idmap import build_id_map, segment_bases
from glimmer.storage.stores import open_store

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ANSWERING = {"answer", "retrieve"}


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("scale")


def test_every_step_of_the_benchmark_runs_and_its_memory_is_sound(scale: ModuleType, tmp_path: Path) -> None:
    rows = 3000
    steps = scale.STEPS | scale.INDEX_STEPS
    for name in [name for name in steps if name not in ANSWERING]:
        found = scale.run_step(name, scale.Run(tmp_path, rows, 12, None))
        assert found["resident_mib"] >= found["anonymous_mib"] > 0
        assert f"| {found['what']}" in scale.shown(found)
    for version in (1, 2, 3):
        report = verify(memory=tmp_path / "made.memory", version=version)
        assert report.sound
        assert report.passages == rows


@pytest.mark.slow
def test_an_id_map_is_built_in_sixty_bytes_a_passage(tmp_path: Path, scale: ModuleType) -> None:
    rows, part = 1 << 21, 1 << 16
    made = importlib.import_module("made_memory")

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, rows, part):
            number = pa.array(np.arange(first, first + part, dtype=np.int32))
            count = pa.array(np.full(part, 100, np.int32))
            yield pa.record_batch(
                {
                    "passage_id": made.hexadecimal(made.passage_ids(0, first, part)),
                    "segment": pa.repeat("s", part),
                    "row": number,
                    "n_tokens": count,
                    "article_id": pa.array(np.arange(first, first + part) // 4).cast(pa.string()),
                    "start_paragraph_id": count,
                    "start_character": count,
                    "end_paragraph_id": count,
                    "end_character": count,
                }
            )

    store = open_store(tmp_path)
    tracemalloc.start()
    try:
        build_id_map(store, "ids.map", batches(), rows=rows, bases=segment_bases({"s": rows}), content_sha256="0" * 64)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / rows < 66
