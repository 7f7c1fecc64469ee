"""`examples/read_memory.py`: a second reader of memories, written from the format's page, agrees with the library."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import glimmer

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "read_memory.py"
FIRST = 20


@pytest.fixture(scope="module")
def example() -> Any:
    spec = importlib.util.spec_from_file_location("read_memory", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", memory_layers=1, live_a=1, live_b=1, window=48)


@pytest.fixture(scope="module", params=["int8", "pq:bytes=6", "pq:bytes=15"])
def memory(
    request: pytest.FixtureRequest,
    model: Path,
    tiny_corpus: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A memory at version 2, so that what is read is not simply all there is."""
    home = tmp_path_factory.mktemp("read")
    corpus = tiny_corpus(home / "corpus.jsonl", 40)
    glimmer.encode(sources=[str(corpus)], memory=home / "m", model=str(model), codec=request.param)
    lines = corpus.read_text(encoding="utf-8").splitlines()
    newer = home / "newer.jsonl"
    newer.write_text("\n".join([lines[0].replace('"text": "', '"text": "New words. '), *lines[4:]]) + "\n")
    glimmer.refresh(sources=[str(newer)], memory=home / "m")
    return home / "m"


def test_it_decodes_what_the_library_decodes(example: Any, memory: Path) -> None:
    opened = glimmer.open_memory(memory)
    assert opened.version == 2
    found = dict(example.representations(memory, FIRST))
    assert list(found) == list(opened)[:FIRST]
    for passage, vectors in zip(found.values(), opened.vectors(list(found)), strict=True):
        assert passage.dtype == np.float32
        np.testing.assert_allclose(passage, vectors, rtol=1e-5, atol=1e-5)


def test_a_damaged_description_is_noticed(example: Any, memory: Path) -> None:
    path = memory / "memory.json"
    content = path.read_bytes()
    try:
        path.write_bytes(content.replace(b'"window"', b'"Window"', 1))
        with pytest.raises(AssertionError, match=r"memory\.json is damaged"):
            next(example.representations(memory, 1))
    finally:
        path.write_bytes(content)


def test_it_is_short_and_owes_nothing_to_glimmer() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "zarr", "deltalake"}


def test_it_runs_as_its_text_says(memory: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, memory, "3"], capture_output=True, text=True, check=True)
    assert len([line for line in done.stdout.splitlines() if ", 32)" in line]) == 3
