"""A training run's settings, as a TOML file says them: parsed strictly, with every key named that is not known.

The dataclasses are the format: a field is a key, a nested dataclass a section, its default what a file may leave out.
Paths are taken from the working directory, as everywhere on the command line.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from ... import ModelError, StorageError, UsageError
from ..config import RerankerConfig
from .losses import LossSettings
from .optimiser import OptimiserName, Part, Schedule, make_schedule

_T = TypeVar("_T")
_LARGEST_COUNT = 1 << 31
_SMALLEST, _LARGEST_RATE = 1e-30, 1e6  # beyond these a float32 is soon 0 or infinite
_LARGEST_SEED = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task of the mixture: a KILT-format `file`, drawn from at `rate` relative to the others' rates."""

    name: str
    file: str
    rate: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.rate <= _LARGEST_RATE:
            raise UsageError(f"rate must be above 0 and at most {_LARGEST_RATE:g}, is {self.rate}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read of the tasks.

    Attributes:
        candidates, select: passages of a question (m), and how many of them the decoder reads (k).
        pool: non-gold candidates are drawn from this many of the first stage's best, anew each epoch; 0 takes its best
            m always.
        passage_tokens: passages are read up to here; 0 reads them whole. Padding grows with the longest of a batch.
        question_tokens, answer_tokens: the longest trained on, special tokens included; longer ones are left out.
        gold: put gold passages that BM25 missed among the candidates (at most half of them).
        irrelevant_weight: what a question counts none of whose candidates is gold or holds an answer; 0 leaves it out.
    """

    candidates: int = 10
    select: int = 5
    pool: int = 0
    passage_tokens: int = 0
    question_tokens: int = 64
    answer_tokens: int = 32
    gold: bool = True
    irrelevant_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.select <= self.candidates:
            raise UsageError(f"select ({self.select}) must lie between 1 and candidates ({self.candidates})")
        if self.pool != 0 and self.pool < self.candidates:
            raise UsageError(f"pool ({self.pool}) must be 0 or at least candidates ({self.candidates})")
        if self.passage_tokens < 0:
            raise UsageError(f"passage_tokens must not be negative, is {self.passage_tokens}")
        if self.question_tokens < 1 or self.answer_tokens < 2:
            raise UsageError("question_tokens must be at least 1 and answer_tokens at least 2")
        if not 0 <= self.irrelevant_weight <= 1:
            raise UsageError(f"irrelevant_weight must lie between 0 and 1, is {self.irrelevant_weight}")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """How steps are taken: by default Adafactor at a constant rate, as T5 and GLIMMER were fine-tuned.

    A step takes `accumulate` parts of `batch` questions each, one after the other; `batch` is spread over the local
    devices. `precision` is that of products; weights are float32 always. `encoder_rate` multiplies the learning rate of
    the encoder's layers, which come trained where a decoder may be fresh. The rate rises linearly over the first
    `warmup` steps and falls linearly to 0 over the last `decay` of a run.
    """

    batch: int = 16
    accumulate: int = 1
    name: OptimiserName = "adafactor"
    learning_rate: float = 1e-3
    encoder_rate: float = 1.0
    warmup: int = 0
    decay: int = 0
    scale_by_parameter: bool = True
    dropout: float = 0.1
    precision: Literal["bfloat16", "float32"] = "bfloat16"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.accumulate < 1:
            raise UsageError("batch and accumulate must be at least 1")
        if not 0 < self.learning_rate <= 100:
            raise UsageError(f"learning_rate must be above 0 and at most 100, is {self.learning_rate}")
        if not 0 < self.encoder_rate <= 1000:
            raise UsageError(f"encoder_rate must be above 0 and at most 1000, is {self.encoder_rate}")
        if self.warmup < 0 or self.decay < 0:
            raise UsageError("warmup and decay must not be negative")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be at least 0 and below 1, is {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Answering a dev `file` every `every` steps, the way `glimmer answer` does, from retrieved candidates.

    `candidates` (m) and `select` (k) are evaluation's own; `grounded` allows only answers that occur in the passages.
    Training stops after `patience` evaluations in a row without a better exact match; 0 never stops early. The weights
    of the best evaluation are what the run ends with.
    """

    file: str
    every: int = 500
    candidates: int = 40
    select: int = 5
    max_answer_tokens: int = 32
    grounded: bool = False
    patience: int = 0

    def __post_init__(self) -> None:
        if self.every < 1 or self.patience < 0 or self.max_answer_tokens < 1:
            raise UsageError("every and max_answer_tokens must be at least 1, patience at least 0")
        if not 1 <= self.select <= self.candidates:
            raise UsageError(f"select ({self.select}) must lie between 1 and candidates ({self.candidates})")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """A checkpoint every `every` steps; the newest `keep` are kept."""

    every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise UsageError("every and keep must be at least 1")


@dataclass(frozen=True, kw_only=True)
class FreshDecoder:
    """A decoder of random weights for a model that has none; width and vocabulary are the encoder's.

    Tokens are read through the encoder's word embeddings; `tied_head` writes them through the same table too.
    `kv_heads` is `num_heads` or 1; `copy_width` > 0 lets it copy tokens from the passages by pointing at them, and
    `copy_by_score` from well-scored passages first, `copy_continuation_bias` to continue a run of words.
    """

    layers: int
    d_ff: int
    num_heads: int
    d_kv: int
    kv_heads: int
    tied_head: bool = True
    copy_width: int = 0
    copy_by_score: bool = False
    copy_continuation_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training run.

    Attributes:
        model: the model directory (or built-in) to start from.
        memory: the memory to train from, made by this model's lower layers.
        run: directory of the run's checkpoints, log and plot; running again resumes from there.
        output: the model directory to write at the end; must not exist.
        steps: steps in all.
        tasks: what to train on.
        train: which weights: "live" (live layers, re-ranker, decoder), "decoder", or "everything", which reads passages
            as text and gives a model with a memory encoder of its own.
        seed: of dropout, fresh weights and the order of examples.
        memory_version: None is the newest.
        live_scale: multiplies, before the first step, what attention and feed-forward of the live layers add; below 1
            they begin by leaving more of the memory as it is.
        decoder_from: a model directory whose decoder is taken instead of this model's or a fresh one.
        reranker: what the re-ranker is made of, in place of what the model says.
    """

    model: str
    memory: str
    run: str
    output: str
    steps: int
    tasks: tuple[TaskConfig, ...]
    train: Part = "live"
    seed: int = 0
    memory_version: int | None = None
    live_scale: float = 1.0
    decoder_from: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    losses: LossSettings = field(default_factory=LossSettings)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    evaluation: EvaluationConfig | None = None
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    decoder: FreshDecoder | None = None
    reranker: RerankerConfig | None = None

    def __post_init__(self) -> None:
        _check_numbers(self, "")
        if self.steps < 1 or not 0 <= self.seed <= _LARGEST_SEED:
            raise UsageError(f"steps must be at least 1 and seed between 0 and {_LARGEST_SEED}")
        if not 0 <= self.live_scale <= 1:
            raise UsageError(f"live_scale must lie between 0 and 1, is {self.live_scale}")
        if self.decoder is not None and self.decoder_from is not None:
            raise UsageError("a fresh [decoder] and decoder_from exclude each other")
        if not self.tasks:
            raise UsageError("tasks must hold at least one task: add a [[tasks]] section with name and file")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise UsageError("two tasks have the same name")
        if self.train == "everything" and self.evaluation is not None:
            raise UsageError(
                'train = "everything" changes the memory encoder, so the memory cannot be answered from: leave '
                "[evaluation] out, encode a memory with the trained model, then continue with the default"
            )

    def schedule(self) -> Schedule:
        """The learning rate of every step."""
        rule = self.optimiser
        return make_schedule(rule.learning_rate, warmup=rule.warmup, decay=rule.decay, steps=self.steps)

    @classmethod
    def from_toml(cls, path: Path) -> TrainConfig:
        """Reads a TOML file; UsageError names the file and the key or section at fault."""
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))  # a number of 5,000 digits is a plain ValueError
        except FileNotFoundError:
            raise UsageError(f"{path}: no such file") from None
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: not valid TOML: {error}") from None
        return _parse(cls, table, str(path), "")


def _check_numbers(section: Any, path: str) -> None:
    """Refuses a number that is not finite, or that no count is, anywhere in a dataclass and those it holds.

    One NaN among the settings makes every weight NaN, and TOML can write it.
    """
    for each in dataclasses.fields(section):
        value, name = getattr(section, each.name), f"{path}.{each.name}" if path else each.name
        for item in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(item):
                _check_numbers(item, name)
            elif isinstance(item, float) and not math.isfinite(item):
                raise UsageError(f"{name} must be a finite number, is {item}")
            elif isinstance(item, float) and item and not _SMALLEST <= abs(item) <= _LARGEST_RATE:
                raise UsageError(f"{name} must be 0 or between {_SMALLEST:g} and {_LARGEST_RATE:g}, is {item:g}")
            elif isinstance(item, int) and abs(item) > (_LARGEST_SEED if each.name == "seed" else _LARGEST_COUNT):
                raise UsageError(f"{name} must be at most {_LARGEST_COUNT:,}")


def _parse(kind: type[_T], value: object, where: str, section: str) -> _T:
    """One dataclass from one table."""
    named = f"{where}: [{section}]" if section else where
    if not isinstance(value, Mapping):
        raise UsageError(f"{named} must be a section")
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise UsageError(f"{named} has no key {key!r}; there are: {', '.join(fields)}")
    hints = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for name, each in fields.items():
        if name in value:
            given[name] = _value(hints[name], value[name], where, f"{section}.{name}" if section else name)
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            raise UsageError(f"{named} lacks the key {name!r}")
    try:
        return kind(**given)
    except (UsageError, ModelError) as error:
        raise UsageError(f"{named}: {error}") from None


def _value(kind: Any, value: object, where: str, key: str) -> Any:
    if typing.get_origin(kind) in (Union, types.UnionType):
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    if dataclasses.is_dataclass(kind):
        return _parse(typing.cast(type, kind), value, where, key)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{where}: {key} must be written as [[{key}]] sections")
        return tuple(_value(typing.get_args(kind)[0], item, where, key) for item in value)
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise UsageError(f"{where}: {key} must be one of {', '.join(map(str, choices))}, not {value!r}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= _LARGEST_COUNT else math.inf
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{where}: {key} must be a finite number, is {value}")
    if type(value) is not kind:
        names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
        raise UsageError(f"{where}: {key} must be {names[kind]}, not {value!r}")
    return value
