"""What every test may ask for: the development data, where it is present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _data_directory() -> Path:
    return Path(os.environ.get("GLIMMER_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Directory with `wiki_small/`, `kilt_metrics/`, `t5/` …; the test is skipped where it is absent."""
    directory = _data_directory()
    if not (directory / "wiki_small").is_dir():
        pytest.skip(f"development data not found at {directory}; set GLIMMER_TEST_DATA to its directory")
    return directory
