"""A model directory: `config.json`, `model.safetensors`, the tokenizer's file and a card, written whole or not at all.

Saving writes a sibling directory and renames it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import ModelError, StorageError, UsageError
from .model_config import ModelConfig
from .weights import BFLOAT16, Array, Tensors, in_memory, read_safetensors, write_safetensors

if TYPE_CHECKING:
    import jax

WEIGHTS = "model.safetensors"


def save_model(
    directory: str | os.PathLike[str],
    config: ModelConfig,
    tensors: Mapping[str, Array | jax.Array] | Tensors,
    tokenizer_files: Mapping[str, Path | bytes],
    card: str,
    *,
    finite_or: str = "the checkpoint is damaged or was trained badly: get it again, or take another",
) -> Path:
    """Writes a whole model directory. Floating tensors are stored in `config.dtype`, norms and biases in float32.

    Args:
        directory: must not exist, or be empty.
        config: the model's configuration.
        tensors: arrays by dotted name.
        tokenizer_files: names within the directory -> a file to copy, or its bytes.
        card: the text of its README.
        finite_or: what to do about NaN or an infinity, for the message.

    Raises:
        UsageError: `directory` exists and is not empty.
        ModelError: a tensor holds NaN or an infinity.
        StorageError: writing fails; nothing is left behind.

    Examples:
        >>> model = glimmer.load_model("sample")
        >>> tokenizer = {model.config.tokenizer.file: model.path / model.config.tokenizer.file}
        >>> copied = glimmer.save_model("copy", model.config, model.tensors, tokenizer, "A copy of the sample reader.")
    """
    directory = Path(directory)
    ModelConfig.from_json(config.to_json(), str(directory / "config.json"))
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory}: already exists and is not empty; choose another --output")
    stored = _as_stored(config, tensors, str(directory))
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise StorageError(f"{directory}: cannot be made: {error.strerror or error}") from error
    try:
        (scratch / "config.json").write_bytes(_config_text(config))
        (scratch / "README.md").write_text(card, encoding="utf-8")
        for name, content in tokenizer_files.items():
            (scratch / name).write_bytes(content if isinstance(content, bytes) else content.read_bytes())
        write_safetensors(scratch / WEIGHTS, stored, finite_or=finite_or)
        scratch.chmod(0o755)
        if directory.exists():
            directory.rmdir()
        scratch.rename(directory)
    except OSError as error:
        raise StorageError(f"{directory}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return directory


def holds_model(
    directory: str | os.PathLike[str],
    config: ModelConfig,
    tensors: Mapping[str, Array | jax.Array] | Tensors,
    tokenizer_files: Mapping[str, Path | bytes],
) -> bool:
    """Whether `directory` holds what `save_model` would write there, to the byte; the card, and other files, aside.

    Reads both, a tensor at a time. A directory that is no whole model holds another.
    """
    directory = Path(directory)
    wanted = {"config.json": _config_text(config)} | {
        name: content if isinstance(content, bytes) else content.read_bytes()
        for name, content in tokenizer_files.items()
    }
    try:
        if any((directory / name).read_bytes() != content for name, content in wanted.items()):
            return False
        found = read_safetensors(directory / WEIGHTS)
    except (OSError, ModelError):
        return False
    stored = _as_stored(config, tensors, str(directory))
    if {name: (e.shape, e.dtype) for name, e in found.entries.items()} != {
        name: (e.shape, e.dtype) for name, e in stored.entries.items()
    }:
        return False
    return all(np.ascontiguousarray(found[name]).tobytes() == stored[name].tobytes() for name in found)


def _config_text(config: ModelConfig) -> bytes:
    return f"{json.dumps(config.to_json(), indent=2)}\n".encode()


def _as_stored(config: ModelConfig, tensors: Mapping[str, Array | jax.Array] | Tensors, origin: str) -> Tensors:
    """Matrices in `config.dtype`, norms and biases in float32; what is not floating stays."""
    if not isinstance(tensors, Tensors):
        tensors = in_memory({name: np.asarray(value) for name, value in tensors.items()}, origin)
    matrices = BFLOAT16 if config.dtype == "bfloat16" else np.dtype(config.dtype)
    return Tensors(
        {
            name: entry.cast(matrices if len(entry.shape) > 1 else np.dtype("float32"))
            if entry.dtype == BFLOAT16 or np.issubdtype(entry.dtype, np.floating)
            else entry
            for name, entry in tensors.entries.items()
        },
        tensors.origin,
    )


def model_card(config: ModelConfig) -> str:
    """A short README for a model directory: where the weights came from and how the layers are shared out."""
    encoder = config.encoder
    total, live = encoder.num_layers, config.live_a_layers + config.live_b_layers
    decoder = f"{config.decoder.get('num_layers')} layers" if config.decoder else "none"
    beta = config.live_a_layers / live if live else 0.0
    return (
        f"# Glimmer model\n\n"
        f"Weights: {config.source}. Their licence is their authors'.\n\n"
        f"| part | layers |\n| --- | --- |\n"
        f"| memory encoder (offline) | {config.memory_layers} of {total} |\n"
        f"| live encoder A, before re-ranking | {config.live_a_layers} |\n"
        f"| live encoder B, after re-ranking | {config.live_b_layers} |\n"
        f"| decoder | {decoder} |\n\n"
        f"Family {encoder.family}, width {encoder.d_model}, {encoder.num_heads} heads of {encoder.d_kv}, "
        f"feed-forward {encoder.d_ff}, vocabulary {encoder.vocab_size}; α = {live / total:.3g}, β = {beta:.3g}.\n"
        f"Passages of at most {config.window} tokens, as `{config.passage_template}`.\n\n"
        f"Load it with `glimmer.encoders.models.load_model(directory)` or name it as `--model directory`.\n"
    )
