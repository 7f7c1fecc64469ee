"""What a model directory's `config.json` says: the shape of the encoder and how its layers are shared out.

The file is written once by `glimmer convert` or `glimmer train` and read by everything that loads a model. Reading is
strict: an unknown, missing or wrong-typed key, or a value out of range, is a `ModelError` naming the key and the file,
because a model that loads with a misread shape gives wrong memory without any other sign. The decoder's and the
re-ranker's sections are carried verbatim; the reader, which owns them, parses them.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NoReturn, cast

from .. import ModelError
from .model_files import read_plain, understood

FORMAT = "glimmer-model"
FORMAT_VERSION = 1
TOKENIZER_KINDS = ("sentencepiece", "wordpiece")
WEIGHT_DTYPES = ("float32", "bfloat16")
_LARGEST = 1 << 31


class Section:
    """One JSON object being read strictly: every key must be taken exactly once, with its type and range checked."""

    def __init__(self, value: object, name: str, where: str) -> None:
        self.name, self.where = name, where
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            self.fail("must be a JSON object")
        self._left: dict[str, object] = dict(value)

    def fail(self, problem: str, key: str | None = None) -> NoReturn:
        """Raises ModelError naming the key (with its section) and the file."""
        path = ".".join(part for part in (self.name, key) if part)
        raise ModelError(f"{path or 'the file'} {problem}", where=self.where)

    def take(self, key: str) -> object:
        if key not in self._left:
            self.fail("is missing", key)
        return self._left.pop(key)

    def integer(self, key: str, *, least: int = 1, most: int = _LARGEST, default: int | None = None) -> int:
        """`default` stands for a key that files of an earlier release do not have."""
        value = default if default is not None and key not in self._left else self.take(key)
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(f"must be an integer, not {value!r:.40}", key)
        if not least <= value <= most:
            self.fail(f"must be between {least} and {most}, not {value!r:.40}", key)
        return value

    def number(self, key: str, *, above: float, most: float, default: float | None = None) -> float:
        """`default` stands for a key that files of an earlier release do not have."""
        value = default if default is not None and key not in self._left else self.take(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            self.fail(f"must be a number, not {value!r:.40}", key)
        if not above < value <= most:
            self.fail(f"must be above {above} and at most {most}, not {value!r:.40}", key)
        return float(value)

    def boolean(self, key: str, *, default: bool | None = None) -> bool:
        """`default` stands for a key that files of an earlier release do not have."""
        value = default if default is not None and key not in self._left else self.take(key)
        if not isinstance(value, bool):
            self.fail(f"must be true or false, not {value!r:.40}", key)
        return value

    def text(self, key: str, *, among: tuple[str, ...] = ()) -> str:
        value = self.take(key)
        if not isinstance(value, str):
            self.fail(f"must be a string, not {value!r:.40}", key)
        if among and value not in among:
            self.fail(f"must be one of {', '.join(among)}, not {value!r:.40}", key)
        return value

    def mapping_or_none(self, key: str) -> Mapping[str, Any] | None:
        value = self.take(key)
        if value is not None and not isinstance(value, Mapping):
            self.fail(f"must be a JSON object or null, not {value!r:.40}", key)
        return value

    def end(self) -> None:
        """Refuses keys that nobody took."""
        if self._left:
            self.fail("is not a known key", sorted(self._left)[0])


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Hyperparameters of a layered encoder. Fields of the other family stay at None (or False).

    `d_kv` is the width of one attention head; T5's `num_heads * d_kv` need not equal `d_model`.
    """

    family: Literal["t5", "bert"]
    vocab_size: int
    d_model: int
    d_ff: int
    num_heads: int
    d_kv: int
    num_layers: int
    layer_norm_eps: float
    relative_buckets: int | None = None
    relative_max_distance: int | None = None
    gated: bool = False
    max_positions: int | None = None
    type_vocab_size: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields of this family, ready for `json.dumps`."""
        other = {"t5": ("max_positions", "type_vocab_size")}.get(
            self.family, ("relative_buckets", "relative_max_distance", "gated")
        )
        return {key: value for key, value in asdict(self).items() if key not in other}

    @classmethod
    def from_json(cls, value: object, where: str = "config.json") -> EncoderConfig:
        """Parses what `to_json` wrote. `where` names the file in errors (ModelError)."""
        section = Section(value, "encoder", where)
        family = cast(Literal["t5", "bert"], section.text("family", among=("t5", "bert")))
        common: dict[str, Any] = {
            key: section.integer(key, most=most)
            for key, most in (
                ("vocab_size", 1 << 24),
                ("d_model", 1 << 16),
                ("d_ff", 1 << 20),
                ("num_heads", 1 << 12),
                ("d_kv", 1 << 12),
                ("num_layers", 1 << 10),
            )
        }
        common["layer_norm_eps"] = section.number("layer_norm_eps", above=0.0, most=1.0)
        if family == "t5":
            buckets = section.integer("relative_buckets", least=4, most=1 << 16)
            distance = section.integer("relative_max_distance", least=2, most=1 << 20)
            if buckets % 4 != 0:
                section.fail(f"must be a multiple of 4, not {buckets}", "relative_buckets")
            if distance <= buckets // 2:
                section.fail(
                    f"must exceed half of relative_buckets ({buckets}), not {distance}", "relative_max_distance"
                )
            common |= {"relative_buckets": buckets, "relative_max_distance": distance}
            common["gated"] = section.boolean("gated")
        else:
            common["max_positions"] = section.integer("max_positions", most=1 << 20)
            common["type_vocab_size"] = section.integer("type_vocab_size", most=1 << 10)
        section.end()
        return cls(family=family, **common)


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """Which tokenizer a model directory carries, and in which of its files."""

    kind: Literal["sentencepiece", "wordpiece"]
    file: str


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model directory's `config.json`.

    The encoder's layers are shared out as in GLIMMER (arXiv 2306.10231, section 3): `memory_layers` frozen ones run
    offline, `live_a_layers` before re-ranking and `live_b_layers` after it. 0 memory layers is fusion-in-decoder, 0
    live A layers is LUMEN. `window` is the most tokens of a passage, specials included. `decoder` is None for a model
    that only encodes; `reranker` is None where the re-ranker shares the live layers.
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
        encoder = EncoderConfig.from_json(section.take("encoder"), where)
        split: dict[str, Any] = {
            key: section.integer(key, least=0, most=encoder.num_layers)
            for key in ("memory_layers", "live_a_layers", "live_b_layers")
        }
        if sum(split.values()) != encoder.num_layers:
            section.fail(
                f"+ live_a_layers + live_b_layers is {sum(split.values())}, but the encoder has {encoder.num_layers}",
                "memory_layers",
            )
        longest = encoder.max_positions if encoder.family == "bert" else None
        config = cls(
            encoder=encoder,
            **split,
            window=section.integer("window", least=8, most=longest or 1 << 16),
            source=section.text("source"),
            passage_template=check_template(section, "passage_template", required={"text"}, allowed={"title", "text"}),
            question_template=check_template(section, "question_template", required={"question"}, allowed={"question"}),
            tokenizer=_tokenizer(section.take("tokenizer"), where),
            decoder=section.mapping_or_none("decoder"),
            reranker=section.mapping_or_none("reranker"),
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


def _tokenizer(value: object, where: str) -> TokenizerSpec:
    section = Section(value, "tokenizer", where)
    kind = cast(Literal["sentencepiece", "wordpiece"], section.text("kind", among=TOKENIZER_KINDS))
    file = section.text("file")
    path = PurePosixPath(file)
    if not file or path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file or "\0" in file:
        section.fail(f"must be a path inside the model directory, not {file!r:.80}", "file")
    section.end()
    return TokenizerSpec(kind=kind, file=file)


def read_json(path: Path, most: int = 4 << 20) -> object:
    """A JSON file's value; ModelError when it is absent, larger than `most` bytes, not UTF-8 or not JSON.

    Repeated keys are no JSON here.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        record = dict(pairs)
        if len(record) < len(pairs):
            raise ValueError("a key occurs twice")
        return record

    if not path.exists():
        raise ModelError(f"{path}: no such file; is this a model directory?")
    content = read_plain(path, most)
    with understood(path, "not valid JSON"):  # RecursionError and numbers of 5,000 digits among its errors
        return cast(object, json.loads(content.decode("utf-8"), object_pairs_hook=unique))


def read_model_config(directory: Path) -> ModelConfig:
    """The checked `config.json` of a model directory."""
    path = directory / "config.json"
    return ModelConfig.from_json(read_json(path), str(path))
