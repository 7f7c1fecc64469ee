"""A model whose live encoder is one layer that adds nothing: silence.py MODEL TARGET.

What the copying stage reads is then the memory itself, and a step costs one layer instead of all the live ones.
"""

import sys
from dataclasses import replace

import numpy as np

from glimmer.encoders.models import load_model, save_model
from glimmer.reader.training.optimiser import is_live_output

model = load_model(sys.argv[1])
layers = model.config.memory_layers + 1
config = replace(
    model.config, encoder=replace(model.config.encoder, num_layers=layers), live_a_layers=0, live_b_layers=1
)
tensors = {
    name: np.zeros_like(model.tensors[name]) if is_live_output(name, config) else model.tensors[name]
    for name in model.tensors
    if not name.startswith("encoder.layers.") or int(name.split(".")[2]) < layers
}
tokenizer = config.tokenizer.file
save_model(
    sys.argv[2], config, tensors, {tokenizer: model.path / tokenizer}, "One silent live layer, to teach copying.\n"
)
