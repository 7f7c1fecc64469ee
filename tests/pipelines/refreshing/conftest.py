"""What the tests of refresh begin from: a small encoder, a corpus, and its memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from changing import Texts, texts, write

from glimmer.pipelines.encode import encode


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", with_decoder=False)


@pytest.fixture
def corpus() -> dict[str, list[str]]:
    return texts(40)


@pytest.fixture
def memory(model: Path, corpus: Texts, tmp_path: Path) -> Path:
    """A memory of `corpus`, version 1."""
    encode(sources=[str(write(tmp_path / "first.jsonl", corpus))], memory=tmp_path / "m", model=str(model))
    return tmp_path / "m"
