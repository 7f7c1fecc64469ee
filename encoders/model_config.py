"""What a model directory's `config.json` says: the shape of the encoder and how its layers are shared out.

The file is written once by `glimmer convert` or `glimmer train` and read by everything that loads a model. Reading is
strict: an unknown, missing or wrong-typed key, or a value out of range, is a `ModelError` naming the key and the file,
because a model that loads with a misread shape gives wrong memory without any other sign. The sections of decoder,
re-ranker and late interaction are carried verbatim; the reader, which owns them, parses them.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from .families.encoder_family import EncoderConfig, TokenizerSpec
from .families.family_registry import read_encoder_config, read_tokenizer_spec
from .strict_json import Section, read_json

FORMAT = "glimmer-model"
FORMAT_VERSION = 1
WEIGHT_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model directory's `config.json`.

    The encoder's layers are shared out as in GLIMMER (arXiv 2306.10231, section 3): `memory_layers` frozen ones run
    offline, `live_a_layers` before re-ranking and `live_b_layers` after it. 0 memory layers is fusion-in-decoder, 0
    live A layers is LUMEN. `window` is the most tokens of a passage, specials included. `decoder` is None for a model
    that only encodes; `reranker` is None where the re-ranker shares the live layers; `late_interaction` is None, and
    absent from the file, where the reader's candidates are those of the first stage.
    """

    encoder: EncoderConfig
    memory_layers: int
    live_a_layers: int
    live_b_layers: int
    tokenizer: TokenizerSpec
    passage_template: str
    question_template: str
    source: str
    window: int = 256
    decoder: Mapping[str, Any] | None = None
    reranker: Mapping[str, Any] | None = None
    late_interaction: Mapping[str, Any] | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    format: str = FORMAT
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """All fields, ready for `json.dumps`."""
        return {
            "format": self.format,
            "format_version": self.format_version,
            "source": self.source,
            "encoder": self.encoder.to_json(),
            "memory_layers": self.memory_layers,
            "live_a_layers": self.live_a_layers,
            "live_b_layers": self.live_b_layers,
            "window": self.window,
            "passage_template": self.passage_template,
            "question_template": self.question_template,
            "tokenizer": asdict(self.tokenizer),
            "decoder": None if self.decoder is None else dict(self.decoder),
            "reranker": None if self.reranker is None else dict(self.reranker),
            **({} if self.late_interaction is None else {"late_interaction": dict(self.late_interaction)}),
            "dtype": self.dtype,
        }

    @classmethod
    def from_json(cls, value: object, where: str = "config.json") -> ModelConfig:
        """Parses and checks what `to_json` wrote. `where` names the file in errors (ModelError)."""
        section = Section(value, "", where)
        section.text("format", among=(FORMAT,))
        version = section.integer("format_version")
        if version != FORMAT_VERSION:
            section.fail(
                f"is {version}; this release reads version {FORMAT_VERSION}: use a newer Glimmer", "format_version"
            )
        encoder = read_encoder_config(section.take("encoder"), where)
        split: dict[str, Any] = {
            key: section.integer(key, least=0, most=encoder.num_layers)
            for key in ("memory_layers", "live_a_layers", "live_b_layers")
        }
        if sum(split.values()) != encoder.num_layers:
            section.fail(
                f"+ live_a_layers + live_b_layers is {sum(split.values())}, but the encoder has {encoder.num_layers}",
                "memory_layers",
            )
        config = cls(
            encoder=encoder,
            **split,
            window=section.integer("window", least=8, most=encoder.max_positions or 1 << 16),
            source=section.text("source"),
            passage_template=check_template(section, "passage_template", required={"text"}, allowed={"title", "text"}),
            question_template=check_template(section, "question_template", required={"question"}, allowed={"question"}),
            tokenizer=read_tokenizer_spec(section.take("tokenizer"), where),
            decoder=section.mapping_or_none("decoder"),
            reranker=section.mapping_or_none("reranker"),
            late_interaction=section.mapping_or_none("late_interaction", optional=True),
            dtype=cast(Literal["float32", "bfloat16"], section.text("dtype", among=WEIGHT_DTYPES)),
        )
        section.end()
        return config


def check_template(section: Section, key: str, *, required: set[str], allowed: set[str]) -> str:
    """Takes a `str.format` template with plain fields only; each required one occurs once, others are refused."""
    template = section.text(key)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        section.fail(f"is not a template: {error}", key)
    names = [name for _, name, _, _ in parts if name is not None]
    if any(spec or conversion for _, _, spec, conversion in parts):
        section.fail("may hold plain fields only, such as {text}", key)
    if len(names) != len(set(names)) or not required <= set(names) <= allowed:
        wanted = ", ".join(f"{{{name}}}" for name in sorted(allowed))
        section.fail(f"must use each field at most once, of {wanted}, and has {names}", key)
    return template


def read_model_config(directory: Path) -> ModelConfig:
    """The checked `config.json` of a model directory."""
    path = directory / "config.json"
    return ModelConfig.from_json(read_json(path), str(path))
