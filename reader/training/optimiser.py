"""Which weights are trained, and by what rule.

A memory on disk is only of use to a reader whose memory encoder made it, so training from a memory never touches what
the fingerprint covers: the embeddings, the memory encoder's layers, T5's relative bias. Adafactor with a constant
learning rate is GLIMMER's choice (arXiv 2306.10231) and T5's for fine-tuning.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import optax

from ...encoders.config import EncoderConfig
from ..config import ReaderConfig

Part = Literal["decoder", "live", "everything"]


def trainable_names(config: ReaderConfig, names: Iterable[str], part: Part) -> frozenset[str]:
    """Dotted names of the weights that training changes.

    `names` are all of the reader's. "decoder": the decoder alone (to teach it copying first). "live": the decoder, the
    re-ranker, the encoder's layers above the memory and, where it is applied after them, its final norm. "everything":
    all weights; memories made before then no longer fit.
    """
    if part == "everything":
        return frozenset(names)
    if part == "decoder":
        return frozenset(name for name in names if name.startswith("decoder."))
    return frozenset(name for name in names if _live(name, config.encoder, config.memory_layers))


def _live(name: str, encoder: EncoderConfig, memory_layers: int) -> bool:
    steps = name.split(".")
    if steps[0] != "encoder":
        return True
    if steps[1] == "layers":
        return int(steps[2]) >= memory_layers
    return steps[1] == "final_norm" and memory_layers < encoder.num_layers


def make_optimiser(
    learning_rate: float, *, scale_by_parameter: bool = True, clip: float = 1.0
) -> optax.GradientTransformation:
    """Adafactor (Shazeer and Stern, 1804.04235) at a constant rate, without momentum, float32 statistics.

    `scale_by_parameter` multiplies each update by the root mean square of its weights, T5's way, in which 1e-3 is a
    usual rate; `clip` bounds the root mean square of an update before that.
    """
    return optax.adafactor(
        learning_rate=learning_rate,
        multiply_by_parameter_scale=scale_by_parameter,
        clipping_threshold=clip,
    )
