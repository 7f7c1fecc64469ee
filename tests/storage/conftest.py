"""What the storage tests share: a memory of two segments, and fresh Python processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from stores_of_a_kind import stores_of_a_kind

from glimmer.storage.stores import Store


@pytest.fixture(params=["local", "in memory", pytest.param("s3", marks=pytest.mark.slow)])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Makes empty stores of one kind; every test that asks for one runs over all kinds."""
    yield from stores_of_a_kind(request, tmp_path)


@pytest.fixture
def store(new_store: Callable[[], Store]) -> Store:
    """An empty store."""
    return new_store()


@pytest.fixture
def memory(kit: Any, store: Store) -> Store:
    """The store of a memory of two segments, 1,100 passages (two shards) and 50."""
    kit.memory(store, 1100, 50)
    return store


@pytest.fixture
def memory_path(kit: Any, tmp_path: Path) -> Path:
    """The directory of a memory like that."""
    path = tmp_path / "memory"
    kit.memory(path, 1100, 50)
    return path


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a fresh Python process: `run_python(code, *arguments)`; `prefix` goes before the interpreter."""

    def run(code: str, *arguments: object, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "child.py"
        script.write_text(textwrap.dedent(code))
        command = [*prefix, sys.executable, str(script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    return run
