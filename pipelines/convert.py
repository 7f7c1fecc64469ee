"""`glimmer convert`: someone else's checkpoint becomes a Glimmer model directory, its layers shared out.

The live proportion α and the re-rank proportion β (GLIMMER, arXiv 2306.10231, section 3) are fractions; layers are
whole. Rounding is reported, and a part that rounding would leave empty although the caller asked for it is refused.
α = 1 makes fusion-in-decoder (nothing precomputed but the embedding), β = 0 makes LUMEN (no re-ranking half-way).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from .. import UsageError
from ..encoders.families.family_registry import find_family
from ..encoders.importers import import_checkpoint
from ..encoders.model_config import ModelConfig
from ..encoders.model_directory import WEIGHTS, holds_model, model_card, save_model
from ..encoders.weights import Tensors, in_memory
from ..reader.config import ReaderConfig
from ..reader.model import Reader
from ..storage.paths import local_path
from ..wording import counted
from .defaults import DEFAULT_WINDOW

HUB_PREFIX = "hf:"


@dataclass(frozen=True, kw_only=True)
class ConvertResult:
    """What `convert` wrote. Proportions are the ones the whole layers come to; `requested_*` what was asked for;
    `nothing_to_do`: the output was there already, equal to the byte."""

    output: Path
    config: ModelConfig
    requested_live: Fraction
    requested_rerank: Fraction
    live_proportion: float
    rerank_proportion: float
    parameters: int
    bytes_written: int
    nothing_to_do: bool = False

    def lines(self) -> list[str]:
        """A few lines for people: the split, and where rounding moved it."""
        config, total = self.config, self.config.encoder.num_layers
        decoder = counted(config.decoder["num_layers"], "decoder layer") if config.decoder else "no decoder"
        lines = [
            f"{self.output}: nothing to do, it holds {config.source} converted so already"
            if self.nothing_to_do
            else f"{self.output}: {config.source}",
            f"{counted(total, 'encoder layer')}: {config.memory_layers} memory, {config.live_a_layers} live A, "
            f"{config.live_b_layers} live B; {decoder}; {self.parameters:,} parameters, {self.bytes_written:,} bytes",
        ]
        for symbol, asked, given in (
            ("live proportion α", self.requested_live, self.live_proportion),
            ("re-rank proportion β", self.requested_rerank, self.rerank_proportion),
        ):
            if not math.isclose(float(asked), given, abs_tol=1e-9) and config.live_a_layers + config.live_b_layers:
                lines.append(f"{symbol}: asked for {asked}, rounded to whole layers it is {given:.3g}")
        return lines


def convert(
    *,
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    live_proportion: Fraction | float | str = "1/3",
    rerank_proportion: Fraction | float | str = "1/4",
    tokenizer: str | os.PathLike[str] | None = None,
    window: int | None = None,
    passage_template: str | None = None,
    question_template: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    allow_empty_live: bool = False,
) -> ConvertResult:
    """Converts a Hugging Face T5 v1.1 or BERT directory, a T5X checkpoint file, or `hf:NAME` on the hub.

    Args:
        source: the directory, file or hub name.
        output: the model directory to write; must not exist, be empty, or hold what would be written.
        live_proportion: α in [0, 1]: "1/3", 0.5, or a Fraction.
        rerank_proportion: β in [0, 1], of the live layers.
        tokenizer: the spiece.model or tokenizer.json, where it does not lie in `source` (a T5X file needs it).
        window: most tokens of a passage; default 256, or the encoder's positions if it has fewer.
        passage_template, question_template: default to the family's own.
        dtype: how matrices are stored.
        allow_empty_live: accept α = 0, or a live part that rounding leaves without layers.

    Raises:
        ModelError: the checkpoint is unsound or of an unsupported kind.
        UsageError: the request cannot be met.
        StorageError: the output cannot be written; nothing is left behind.

    Examples:
        >>> glimmer.convert(source="t5-v1_1-base", output="t5-base").lines()  # doctest: +SKIP
    """
    live, rerank = _proportion("live", live_proportion), _proportion("re-rank", rerank_proportion)
    target = local_path(output)
    exists = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if exists and not (target / WEIGHTS).is_file():
        raise UsageError("already exists and is not empty", where=target, remedy="choose another --output")
    name = os.fspath(source)
    path = _download(name.removeprefix(HUB_PREFIX)) if name.startswith(HUB_PREFIX) else local_path(name)
    imported = import_checkpoint(path, tokenizer=None if tokenizer is None else Path(tokenizer))
    encoder = imported.encoder
    memory_layers, live_a, live_b = split_layers(encoder.num_layers, live, rerank, allow_empty_live=allow_empty_live)
    family = find_family(encoder.family)
    longest = encoder.max_positions or DEFAULT_WINDOW
    if window is not None and encoder.max_positions is not None and window > encoder.max_positions:
        raise UsageError(f"--window {window} exceeds the encoder's {encoder.max_positions} positions")
    config = ModelConfig(
        encoder=encoder,
        memory_layers=memory_layers,
        live_a_layers=live_a,
        live_b_layers=live_b,
        tokenizer=imported.tokenizer,
        passage_template=passage_template or family.passage_template,
        question_template=question_template or family.question_template,
        source=name if name.startswith(HUB_PREFIX) else imported.source,
        window=min(DEFAULT_WINDOW, longest) if window is None else window,
        decoder=imported.decoder,
        dtype=dtype,
    )
    files = {imported.tokenizer.file: imported.tokenizer_file}
    tensors = imported.tensors if config.decoder is None else _with_reranker(config, imported.tensors)
    if exists and not holds_model(target, config, tensors, files):
        raise UsageError(
            "holds another model, or this one converted otherwise", where=target, remedy="choose another --output"
        )
    written = target if exists else save_model(target, config, tensors, files, model_card(config))
    return ConvertResult(
        output=written,
        config=config,
        requested_live=live,
        requested_rerank=rerank,
        live_proportion=(live_a + live_b) / encoder.num_layers,
        rerank_proportion=live_a / (live_a + live_b) if live_a + live_b else 0.0,
        parameters=sum(math.prod(entry.shape) for entry in tensors.entries.values()),
        bytes_written=(written / WEIGHTS).stat().st_size,
        nothing_to_do=exists,
    )


def _with_reranker(config: ModelConfig, tensors: Tensors) -> Tensors:
    """`tensors` and a re-ranker, which no checkpoint brings: all scores 0, which keeps the order of the first stage."""
    shapes = Reader(ReaderConfig.from_model(config)).shapes()
    own = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name.startswith("reranker.")}
    for name in own:
        if name.endswith("norm.scale"):
            own[name] += 1
    return Tensors({**tensors.entries, **in_memory(own, tensors.origin).entries}, tensors.origin)


def split_layers(
    layers: int, live: Fraction, rerank: Fraction, *, allow_empty_live: bool = False
) -> tuple[int, int, int]:
    """(memory, live A, live B) layers for proportions α = `live` and β = `rerank`, halves rounded up.

    UsageError where a part that was asked for gets no layer (unless allowed), saying what would do.
    """
    lively = math.floor(live * layers + Fraction(1, 2))
    first = math.floor(rerank * lively + Fraction(1, 2))
    split = (layers - lively, first, lively - first)
    wanted = (live < 1, live > 0 and rerank > 0, live > 0 and rerank < 1)
    parts = ("the memory encoder", "live encoder A (before re-ranking)", "live encoder B (after re-ranking)")
    if not allow_empty_live:
        if live == 0:
            raise UsageError("--live-proportion 0 leaves no live layers; give a larger one, or allow it explicitly")
        for count, asked, part in zip(split, wanted, parts, strict=True):
            if asked and count == 0:
                raise UsageError(
                    f"{part} would get no layer: of {layers} layers, live proportion {live} and re-rank proportion "
                    f"{rerank} round to {split[0]} + {split[1]} + {split[2]}; change the proportions"
                )
    return split


def _proportion(name: str, value: Fraction | float | str) -> Fraction:
    try:
        # A float goes through its shortest decimal form, so that 0.1 means one tenth.
        proportion = Fraction(str(value)) if isinstance(value, float) else Fraction(value)
    except (ValueError, ZeroDivisionError, TypeError):
        raise UsageError(f"the {name} proportion must be a number or a fraction such as 1/3, not {value!r}") from None
    if not 0 <= proportion <= 1:
        raise UsageError(f"the {name} proportion must be between 0 and 1, not {value}")
    return proportion


def _download(name: str) -> Path:
    """A hub model's directory in the hub's own cache; safetensors where it has them."""
    try:
        import huggingface_hub
    except ImportError:
        raise UsageError(
            f"{HUB_PREFIX}{name} needs the hub's client: pip install 'glimmer-memory[hub]', or give a directory"
        ) from None
    wanted = ["config.json", "spiece.model", "tokenizer.json", "*.safetensors", "*.safetensors.index.json"]
    try:
        path = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
        if not any(path.glob("*.safetensors")):
            wanted += ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
            path = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # the client raises its own, its HTTP library's and the operating system's errors
        reason = str(error).strip().splitlines()
        raise UsageError(
            f"{HUB_PREFIX}{name}: cannot be had from the hub: {reason[0] if reason else error!r}"
        ) from None
    return path
