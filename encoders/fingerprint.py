"""The identity of what a memory encoder computes, so that a memory is never read with another encoder.

Two models have the same fingerprint exactly when they turn a passage into the same representations: same embedding,
memory layers, tokenizer and passage template. The live layers, the decoder and the re-ranker do not count: training
them leaves existing memory valid.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

from .. import ModelError
from .families.family_registry import find_family
from .model_config import ModelConfig
from .tokenizers import Tokenizer
from .weights import Tensors

_CHUNK = 64 << 20


def covered(name: str, config: ModelConfig) -> bool:
    """Whether the tensor of that name takes part in encoding a passage."""
    if not name.startswith("encoder."):
        return False
    parts = name.split(".")
    if parts[1] == "layers":
        if len(parts) < 4 or not (parts[2].isascii() and parts[2].isdigit() and len(parts[2]) < 5):
            raise ModelError(f"tensor {name} is not named as a model's tensors are; convert the checkpoint again")
        return int(parts[2]) < config.memory_layers
    family = find_family(config.encoder.family)
    if parts[1] in family.context_parameters:
        return config.memory_layers > 0
    if parts[1] in family.final_parameters:
        return config.memory_layers == config.encoder.num_layers
    return True


def fingerprint(config: ModelConfig, tensors: Tensors, tokenizer: Tokenizer) -> str:
    """SHA-256 (64 hex digits) over settings, tokenizer and every covered tensor's name, shape, dtype and bytes."""
    settings = config.encoder.to_json()
    del settings["num_layers"]  # how many layers follow the memory encoder does not change it
    settings |= {
        "memory_layers": config.memory_layers,
        "finished": config.memory_layers == config.encoder.num_layers,
        "passage_template": config.passage_template,
    }
    digest = hashlib.sha256(b"glimmer encoder 1\0")
    digest.update(json.dumps(settings, sort_keys=True).encode() + b"\0")
    digest.update(hashlib.sha256(tokenizer.identity_bytes()).digest())
    for name in sorted(name for name in tensors if covered(name, config)):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}\0{list(array.shape)}\0{array.dtype.name}\0".encode())
        data = array.reshape(-1).view(np.uint8)
        for start in range(0, data.size, _CHUNK):
            digest.update(data[start : start + _CHUNK].data)
    return digest.hexdigest()
