"""`sources` of a job: one name or path, or several, mean the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import glimmer


@pytest.mark.parametrize("shape", [str, Path, lambda path: [str(path)], lambda path: (path,)])
def test_one_source_needs_no_list(
    shape: Callable[[Path], str | os.PathLike[str] | list[str] | tuple[Path]],
    tmp_path: Path,
    tiny_model: Callable[..., Path],
    tiny_corpus: Callable[..., Path],
) -> None:
    corpus, memory = tiny_corpus(tmp_path / "corpus.jsonl", 8), tmp_path / "m"
    model = str(tiny_model(tmp_path / "model", memory_layers=1, live_a=1, live_b=1, window=32))
    first = glimmer.encode(sources=shape(corpus), memory=memory, model=model)
    assert first.plan.articles == 8
    assert glimmer.encode(sources=[corpus], memory=memory, model=model).nothing_to_do
    assert glimmer.refresh(sources=shape(corpus), memory=memory).nothing_changed
