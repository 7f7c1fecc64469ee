"""What the storage tests share: a memory of two segments, and fresh Python processes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def memory_path(kit: Any, tmp_path: Path) -> Path:
    """A memory of two segments, 1,100 passages (two shards) and 50."""
    return kit.memory(tmp_path / "memory", 1100, 50)


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a fresh Python process: `run_python(code, *arguments)`; `prefix` goes before the interpreter."""

    def run(code: str, *arguments: object, prefix: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "child.py"
        script.write_text(textwrap.dedent(code))
        command = [*prefix, sys.executable, str(script), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    return run
