"""Which weights are trained, and by what rule.

A memory on disk is only of use to a reader whose memory encoder made it, so training from a memory never touches what
the fingerprint covers: the embeddings, the memory encoder's layers, T5's relative bias. Adafactor with a constant
learning rate is GLIMMER's choice (arXiv 2306.10231) and T5's for fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax.numpy as jnp
import optax

from ...encoders.families.encoder_family import EncoderConfig
from ...encoders.families.family_registry import find_family
from ...encoders.model_config import ModelConfig
from ..config import ReaderConfig

Part = Literal["decoder", "live", "everything"]
OptimiserName = Literal["adafactor", "adam"]
Schedule = Callable[[Any], Any]
"""The learning rate of a step, counted from 0; traceable."""


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
    return steps[1] in find_family(encoder.family).final_parameters and memory_layers < encoder.num_layers


def is_live_output(name: str, config: ModelConfig) -> bool:
    """Whether a tensor is what attention or feed-forward of a live layer adds to the stream with."""
    part = ".".join(name.split(".")[3:-1])
    return (
        part in find_family(config.encoder.family).output_kernels
        and name.startswith("encoder.layers.")
        and (_live(name, config.encoder, config.memory_layers))
    )


def make_schedule(learning_rate: float, *, warmup: int = 0, decay: int = 0, steps: int = 0) -> Schedule:
    """The learning rate of a step (from 0): linear from 0 over `warmup` steps, constant, linear to 0 over the last
    `decay` of `steps`."""

    def rate(step: Any) -> Any:
        rise = jnp.minimum(1.0, (step + 1) / (warmup + 1))
        fall = jnp.clip((steps - step) / decay, 0.0, 1.0) if decay else 1.0
        return learning_rate * jnp.minimum(rise, fall)

    return rate


def make_optimiser(
    learning_rate: float | Schedule,
    *,
    name: OptimiserName = "adafactor",
    encoder_rate: float = 1.0,
    scale_by_parameter: bool = True,
    clip: float = 1.0,
) -> optax.GradientTransformation:
    """Adafactor (Shazeer and Stern, 1804.04235) without momentum, or Adam (Kingma and Ba, 1412.6980); float32 state.

    For Adafactor, `scale_by_parameter` multiplies each update by the root mean square of its weights, T5's way, in
    which 1e-3 is a usual rate, and `clip` bounds the root mean square of an update before that. For Adam, `clip` bounds
    the norm of the whole gradient. `encoder_rate` multiplies updates of weights whose name begins with "encoder.".
    """
    if name == "adam":
        rule = optax.chain(
            optax.clip_by_global_norm(clip), optax.scale_by_adam(b2=0.99), optax.scale_by_learning_rate(learning_rate)
        )
    else:
        rule = optax.adafactor(
            learning_rate=learning_rate,
            multiply_by_parameter_scale=scale_by_parameter,
            clipping_threshold=clip,
        )
    if encoder_rate == 1.0:
        return rule

    def scaled(updates: Any, state: Any, weights: Any = None) -> Any:
        del weights
        return {
            key: update * encoder_rate if key.startswith("encoder.") else update for key, update in updates.items()
        }, state

    return optax.chain(rule, optax.GradientTransformation(lambda weights: optax.EmptyState(), scaled))
