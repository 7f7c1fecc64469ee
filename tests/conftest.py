"""What every test may ask for: the development data, where it is present, and small things to run whole jobs on."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _beside(name: str) -> ModuleType:
    """`tests/<name>.py`: test modules are not importable by name (import mode importlib)."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


_beside("changing")  # test modules import these by name
_beside("hostile")


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
    make: Callable[..., Path] = _beside("tiny_models").tiny_reader
    return make


@pytest.fixture(scope="session")
def tiny_corpus() -> Callable[..., Path]:
    """`tiny_corpus(path, articles=200, *, seed=0) -> Path`: Wikipedia JSON lines of made-up text."""
    make: Callable[..., Path] = _beside("tiny_models").tiny_corpus
    return make


@pytest.fixture(scope="session")
def tiny_questions() -> Callable[..., Path]:
    """`tiny_questions(path, questions=20, *, seed=0, longest=12) -> Path`: KILT questions without gold."""
    make: Callable[..., Path] = _beside("tiny_models").tiny_questions
    return make


@pytest.fixture(scope="session")
def tiny_gold() -> Callable[..., Path]:
    """`tiny_gold(memory, path, first, count) -> Path`: KILT questions about passages, with answers and provenance."""
    make: Callable[..., Path] = _beside("tiny_models").tiny_gold
    return make


@pytest.fixture(scope="session")
def kit() -> Any:
    """Makes passages, codes, segments and memories without a model; see `tests/kit.py`."""
    return _beside("kit").Kit()
