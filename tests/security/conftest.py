"""A small real memory as somebody may send it, to be damaged or forged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def made(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = kit.memory(tmp_path_factory.mktemp("made") / "m", 12, 8)
    return path


@pytest.fixture
def sent(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "m"))
