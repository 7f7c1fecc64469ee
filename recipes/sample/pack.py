"""Puts a trained reader into the package as the built-in `sample`: pack.py MODEL CARD.

Kept are its config, the card, and in bfloat16 the weights that MiniLM does not have: live layers, re-ranker, decoder.
"""

import json
import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from glimmer.encoders.builtin_models import SAMPLE
from glimmer.encoders.model_directory import WEIGHTS
from glimmer.encoders.models import load_model
from glimmer.encoders.weights import in_memory, write_safetensors
from glimmer.reader.config import ReaderConfig
from glimmer.reader.model import Reader
from glimmer.reader.training.optimiser import trainable_names

model = load_model(sys.argv[1])
config = ReaderConfig.from_model(model.config)
kept = trainable_names(config, Reader(config).shapes(), "live")
tensors = {name: np.asarray(model.tensors[name]) for name in sorted(kept)}
tensors = {name: value.astype(jnp.bfloat16) if value.ndim > 1 else value for name, value in tensors.items()}
SAMPLE.mkdir(parents=True, exist_ok=True)
write_safetensors(SAMPLE / WEIGHTS, in_memory(tensors, str(SAMPLE)))
(SAMPLE / "config.json").write_text(json.dumps(model.config.to_json(), indent=2) + "\n")
if Path(sys.argv[2]).resolve() != (SAMPLE / "README.md").resolve():
    shutil.copyfile(Path(sys.argv[2]), SAMPLE / "README.md")
