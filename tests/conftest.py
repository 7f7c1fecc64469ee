"""What every test may ask for: the development data, where it is present, and small things to run whole jobs on."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _tiny_models() -> ModuleType:
    """`tests/tiny_models.py`: test modules are not importable by name (import mode importlib)."""
    spec = importlib.util.spec_from_file_location("tiny_models", Path(__file__).with_name("tiny_models.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _data_directory() -> Path:
    return Path(os.environ.get("GLIMMER_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Directory with `wiki_small/`, `kilt_metrics/`, `t5/` …; the test is skipped where it is absent."""
    directory = _data_directory()
    if not (directory / "wiki_small").is_dir():
        pytest.skip(f"development data not found at {directory}; set GLIMMER_TEST_DATA to its directory")
    return directory


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Path]:
    """`tiny_reader(directory, *, memory_layers, live_a, live_b, with_decoder=True, seed=0, …) -> Path`."""
    make: Callable[..., Path] = _tiny_models().tiny_reader
    return make


@pytest.fixture(scope="session")
def tiny_corpus() -> Callable[..., Path]:
    """`tiny_corpus(path, articles=200, *, seed=0) -> Path`: Wikipedia JSON lines of made-up text."""
    make: Callable[..., Path] = _tiny_models().tiny_corpus
    return make


@pytest.fixture(scope="session")
def tiny_questions() -> Callable[..., Path]:
    """`tiny_questions(path, questions=20, *, seed=0, longest=12) -> Path`: KILT questions without gold."""
    make: Callable[..., Path] = _tiny_models().tiny_questions
    return make
