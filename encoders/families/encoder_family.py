"""What an encoder family is: its hyperparameters, its module, its templates, tokenizers and checkpoints.

Nothing here imports JAX, so that a model's configuration can be read and its cost estimated without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from flax import nnx
    from jax.typing import DTypeLike

    from ..layered import LayeredEncoder
    from ..strict_json import Section
    from ..tokenizers import Tokenizer
    from ..weights import Tensors


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Hyperparameters that every layered encoder has; a family's own class adds its own and sets `family`.

    Attributes:
        vocab_size: rows of the word embeddings. d_model: width of a representation. d_ff: of the feed-forward layer.
        num_heads, d_kv: attention heads and the width of one; `num_heads * d_kv` need not equal `d_model`.
        num_layers: of the whole encoder, memory and live layers together.
        layer_norm_eps: what norms add to a variance.
        max_positions: the longest input in tokens, None where the architecture has no limit.
    """

    family: ClassVar[str]

    vocab_size: int
    d_model: int
    d_ff: int
    num_heads: int
    d_kv: int
    num_layers: int
    layer_norm_eps: float
    max_positions: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The family's name and the fields that are not None, ready for `json.dumps`."""
        fields = {key: value for key, value in asdict(self).items() if value is not None}
        return {"family": self.family, **fields}

    @classmethod
    def take(cls, section: Section) -> Self:
        """Reads the fields of this class from the encoder's section of a config.json; ModelError names a bad one."""
        return cls(**cls.take_common(section))

    @staticmethod
    def take_common(section: Section) -> dict[str, Any]:
        """The fields of `EncoderConfig` itself, without `max_positions`, each checked."""
        most = {"vocab_size": 24, "d_model": 16, "d_ff": 20, "num_heads": 12, "d_kv": 12, "num_layers": 10}
        sizes: dict[str, Any] = {key: section.integer(key, most=1 << bits) for key, bits in most.items()}
        return sizes | {"layer_norm_eps": section.number("layer_norm_eps", above=0.0, most=1.0)}

    def layer_cost(self, tokens: int) -> int:
        """Multiply-adds of one layer over a row of `tokens`: projections, attention, and a feed-forward of 2 products.

        Families with other layers count their own.
        """
        inner = self.num_heads * self.d_kv
        projections = 4 * self.d_model * inner
        scores_and_mix = 2 * tokens * inner
        return tokens * (projections + 2 * self.d_model * self.d_ff + scores_and_mix)


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """Which tokenizer a model directory carries, and in which of its files. Kinds are those of `EncoderFamily`s."""

    kind: str
    file: str


@dataclass(frozen=True, kw_only=True)
class ImportedCheckpoint:
    """Somebody else's checkpoint in Glimmer's terms.

    Attributes:
        encoder: its hyperparameters.
        decoder: the decoder's section of config.json (`reader.config.DecoderConfig`), None for an encoder alone.
        tensors: by Glimmer's names ("encoder.layers.0.attention.q.kernel"), kernels as [in, out]; read when asked for.
        tokenizer: how the model directory will name it. tokenizer_file: where it lies now.
        source: what the weights are, for people.
    """

    encoder: EncoderConfig
    decoder: Mapping[str, Any] | None
    tensors: Tensors
    tokenizer: TokenizerSpec
    tokenizer_file: Path
    source: str


class EncoderFamily(ABC):
    """One family of encoders.

    Attributes:
        name: in a model's config.json and in a memory's memory.json: lower-case letters, digits, `_` and `-`.
        config: the class of its hyperparameters.
        passage_template, question_template: of models that are converted without others (`str.format` fields).
        pre_norm: whether layers normalise their input, which leaves the residual stream between them unnormalised.
        embedding_parameters: the module's attributes that `embed` uses.
        context_parameters: those that `context` uses, shared by all layers; kept in float32.
        final_parameters: those that `finish` uses, after the last layer.
        output_kernels: what a layer adds to the residual stream with; its path within the layer.
        tokenizers: a function that opens a tokenizer's file, by the kind's name in config.json. Models of any family
            may use the kinds of all.
        checkpoints: what `import_checkpoint` takes, for messages.
    """

    name: ClassVar[str]
    config: ClassVar[type[EncoderConfig]]
    passage_template: ClassVar[str]
    question_template: ClassVar[str]
    pre_norm: ClassVar[bool]
    embedding_parameters: ClassVar[tuple[str, ...]] = ("embedding",)
    context_parameters: ClassVar[tuple[str, ...]] = ()
    final_parameters: ClassVar[tuple[str, ...]] = ()
    output_kernels: ClassVar[tuple[str, ...]] = ("attention.o", "mlp.wo")
    tokenizers: ClassVar[Mapping[str, Callable[[Path], Tokenizer]]] = {}
    checkpoints: ClassVar[str]

    @abstractmethod
    def module(
        self, config: EncoderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, layer_range: range | None = None
    ) -> LayeredEncoder:
        """A freshly initialised encoder (an `nnx.Module`) that computes in `dtype` and has the layers of `layer_range`.

        Its attributes' names are the tensors' names after "encoder."; `embedding` [vocab_size, d_model] are the words.
        """

    @abstractmethod
    def recognises(self, source: Path) -> bool:
        """Whether the file or directory `source` looks like a checkpoint of this family; never raises for another's."""

    @abstractmethod
    def import_checkpoint(self, source: Path, tokenizer: Path | None) -> ImportedCheckpoint:
        """Reads a checkpoint that `recognises` accepted; `tokenizer` is its file where that does not lie in `source`.

        What the checkpoint's configuration says is compared with what the module computes: an activation or a position
        scheme that it does not have is refused, never approximated. ModelError names the file and what is wrong,
        UsageError when the tokenizer is missing.
        """
