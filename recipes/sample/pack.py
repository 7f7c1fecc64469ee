"""Puts a trained reader into the package as the built-in `sample`: pack.py MODEL CARD [TARGET].

Kept are its config, the card, and in bfloat16 the weights that MiniLM does not have: live layers, re-ranker, decoder.
TARGET is the directory of the built-in in this checkout unless given.
"""

import json
import shutil
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

import glimmer

BUILT_IN = Path(__file__).resolve().parents[2] / "encoders" / "builtin" / "sample"


def is_live(name: str, config: glimmer.ModelConfig) -> bool:
    """Whether a tensor takes part in answering alone: the memory does not depend on it."""
    steps = name.split(".")
    if steps[0] != "encoder":
        return True
    if steps[1] == "layers":
        return int(steps[2]) >= config.memory_layers
    return steps[1] == "final_norm" and config.memory_layers < config.encoder.num_layers


def main(model: str, card: Path, target: Path) -> None:
    """Writes the built-in's directory."""
    loaded = glimmer.load_model(model)
    kept = {name: np.asarray(loaded.tensors[name]) for name in sorted(loaded.tensors) if is_live(name, loaded.config)}
    stored = {name: value.astype(ml_dtypes.bfloat16) if value.ndim > 1 else value for name, value in kept.items()}
    target.mkdir(parents=True, exist_ok=True)
    save_file(stored, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(loaded.config.to_json(), indent=2) + "\n")
    if card.resolve() != (target / "README.md").resolve():
        shutil.copyfile(card, target / "README.md")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else BUILT_IN)
