"""What every test may ask for: excerpts of real data, and small things to run whole jobs on.

All processes of a test run, and those that they start, keep compiled programs and converted models in a directory of
pytest's cache (`make clean` removes it), so the user's own cache stays as it is and the next run starts with them.

Helpers that test modules import by name are in `tests/support`, which pytest puts on `sys.path`.
"""

from __future__ import annotations

import gc
import lzma
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kit as memories
import pytest
import tiny_models
from object_servers import BUCKET, MotoServer, ObjectServer, SeaweedServer, binary
from real_data import EXCERPT, FIXTURES, WHOLE, Wikipedia

from glimmer import UsageError
from glimmer.encoders.compilation import enable_compilation_cache
from glimmer.encoders.models import load_model


def pytest_configure(config: pytest.Config) -> None:
    if (cache := getattr(config, "cache", None)) is not None and "XDG_CACHE_HOME" not in os.environ:
        os.environ["XDG_CACHE_HOME"] = str(cache.mkdir("home"))


def pytest_collection_finish() -> None:
    gc.set_threshold(50_000, 20, 50)  # the libraries' million objects are no garbage, and need not be looked at often
    enable_compilation_cache()


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(EXCERPT, id="excerpt"),
        *([pytest.param(WHOLE, id="whole")] if WHOLE.directory.is_dir() else []),
    ],
)
def wikipedia(request: pytest.FixtureRequest) -> Wikipedia:
    """Real articles and questions: the committed excerpt, and the whole as well where it is at hand."""
    found: Wikipedia = request.param
    return found


@pytest.fixture(scope="session")
def kilt_files() -> Path:
    """Directory with excerpts of KILT's files and of what its scorer says."""
    return FIXTURES / "kilt"


@pytest.fixture(scope="session")
def t5_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with `spiece.model` and the T5X checkpoint `test_t5_tiny.checkpoint_0`."""
    directory = tmp_path_factory.mktemp("t5")
    for packed in (FIXTURES / "t5").glob("*.xz"):
        (directory / packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
    return directory


@pytest.fixture(scope="session")
def sample_weights() -> None:
    """Skips where the sample reader cannot be loaded: MiniLM's weights are a package of their own."""
    try:
        load_model("sample")
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Path]:
    """`tiny_reader(directory, *, memory_layers, live_a, live_b, with_decoder=True, seed=0, …) -> Path`."""
    return tiny_models.tiny_reader


@pytest.fixture(scope="session")
def tiny_corpus() -> Callable[..., Path]:
    """`tiny_corpus(path, articles=200, *, seed=0) -> Path`: Wikipedia JSON lines of made-up text."""
    return tiny_models.tiny_corpus


@pytest.fixture(scope="session")
def tiny_questions() -> Callable[..., Path]:
    """`tiny_questions(path, questions=20, *, seed=0, longest=12) -> Path`: KILT questions without gold."""
    return tiny_models.tiny_questions


@pytest.fixture(scope="session")
def tiny_gold() -> Callable[..., Path]:
    """`tiny_gold(memory, path, first, count) -> Path`: KILT questions about passages, with answers and provenance."""
    return tiny_models.tiny_gold


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """SeaweedFS on loopback, with one bucket; moto's server where that is not installed."""
    kind = next((kind for kind in (SeaweedServer, MotoServer) if binary(kind.program) is not None), None)
    if kind is None:
        pytest.skip("neither SeaweedFS (`weed`) nor moto's server is installed")
    server = kind(tmp_path_factory.mktemp("objects"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def new_bucket_place(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Names of places for memories in the bucket of `object_server`, all different; the environment leads there."""
    for name, value in object_server.environment.items():
        monkeypatch.setenv(name, value)
    return lambda: f"s3://{BUCKET}/{secrets.token_hex(6)}/memory"


@pytest.fixture(scope="session")
def kit() -> Any:
    """Makes passages, codes, segments and memories without a model; see `tests/support/kit.py`."""
    return memories.Kit()
