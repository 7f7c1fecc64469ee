"""What the tests of refresh begin from: a small encoder, a corpus, and its memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from changing import texts, write

from glimmer.pipelines.encode import encode


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", with_decoder=False)


@pytest.fixture
def corpus() -> dict[str, list[str]]:
    return texts(40)


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    encode(sources=[str(write(home / "first.jsonl", texts(40)))], memory=home / "m", model=str(model))
    return home / "m"


@pytest.fixture
def memory(made: Path, tmp_path: Path) -> Path:
    """A memory of `corpus`, version 1."""
    return Path(shutil.copytree(made, tmp_path / "m"))
