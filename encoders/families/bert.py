"""BERT and its relatives with the same layers, MiniLM among them (arXiv 1810.04805), from Hugging Face directories."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from ..hugging_face import HuggingFaceConfig, RenamedTensors, directory_tensors, model_type, tokenizer_file
from ..strict_json import Section
from ..weights import Tensors
from .encoder_family import EncoderConfig, EncoderFamily, ImportedCheckpoint, TokenizerSpec
from .family_registry import read_encoder_config

if TYPE_CHECKING:
    from flax import nnx
    from jax.typing import DTypeLike

    from ..layered import LayeredEncoder
    from ..tokenizers import Tokenizer

_TOKENIZER = TokenizerSpec(kind="wordpiece", file="tokenizer.json")


@dataclass(frozen=True, kw_only=True)
class BertConfig(EncoderConfig):
    """A BERT encoder's hyperparameters; `max_positions` is the number of its learnt absolute positions.

    `type_vocab_size` counts segment embeddings; everything here is segment 0.
    """

    family = "bert"

    max_positions: int = field()  # needed here, other than in the base
    type_vocab_size: int

    @classmethod
    def take(cls, section: Section) -> Self:
        common = cls.take_common(section)
        positions = section.integer("max_positions", most=1 << 20)
        return cls(**common, max_positions=positions, type_vocab_size=section.integer("type_vocab_size", most=1 << 10))


def _open_wordpiece(path: Path) -> Tokenizer:
    from ..tokenizers import WordPieceTokenizer

    return WordPieceTokenizer(path)


class BertFamily(EncoderFamily):
    """BERT's encoder. It has no decoder; `glimmer train` makes one."""

    name = "bert"
    config = BertConfig
    passage_template = "{title}: {text}"
    question_template = "{question}"
    pre_norm = False
    embedding_parameters = ("embedding", "position_embedding", "type_embedding", "embedding_norm")
    tokenizers: ClassVar = {"wordpiece": _open_wordpiece}
    checkpoints = "BERT (a Hugging Face directory of model_type 'bert')"

    def module(
        self, config: EncoderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, layer_range: range | None = None
    ) -> LayeredEncoder:
        from ..bert_layers import BertEncoder

        assert isinstance(config, BertConfig)
        return BertEncoder(config, rngs=rngs, dtype=dtype, layer_range=layer_range)

    def recognises(self, source: Path) -> bool:
        return model_type(source) == "bert"

    def import_checkpoint(self, source: Path, tokenizer: Path | None) -> ImportedCheckpoint:
        return _import_directory(source, tokenizer)


FAMILY = BertFamily()


def _import_directory(directory: Path, tokenizer: Path | None) -> ImportedCheckpoint:
    defaults = {"hidden_act": "gelu", "position_embedding_type": "absolute", "layer_norm_eps": 1e-12}
    read = HuggingFaceConfig(directory, defaults | {"type_vocab_size": 2, "max_position_embeddings": 512})
    read.text("hidden_act", among=("gelu",))
    read.text("position_embedding_type", among=("absolute",))
    width, heads = read.integer("hidden_size"), read.integer("num_attention_heads")
    if width % heads:
        read.fail(f"({width}) is not a multiple of num_attention_heads ({heads})", "hidden_size")
    encoder = BertConfig(
        vocab_size=read.integer("vocab_size"),
        d_model=width,
        d_ff=read.integer("intermediate_size"),
        num_heads=heads,
        d_kv=width // heads,
        num_layers=read.integer("num_hidden_layers"),
        layer_norm_eps=read.number("layer_norm_eps", above=0.0, most=1.0),
        max_positions=read.integer("max_position_embeddings"),
        type_vocab_size=read.integer("type_vocab_size"),
    )
    read_encoder_config(encoder.to_json(), read.where)
    return ImportedCheckpoint(
        encoder=encoder,
        decoder=None,
        tensors=rename_bert(directory_tensors(directory), encoder),
        tokenizer=_TOKENIZER,
        tokenizer_file=tokenizer_file(directory, tokenizer, "tokenizer.json"),
        source=f"Hugging Face BERT, {directory.name}",
    )


def rename_bert(tensors: Tensors, encoder: BertConfig) -> Tensors:
    """Hugging Face BERT tensors (with or without a `bert.` prefix) under Glimmer's names."""
    names, width = RenamedTensors(tensors), encoder.d_model
    for new, old, rows in (
        ("embedding", "word_embeddings", encoder.vocab_size),
        ("position_embedding", "position_embeddings", encoder.max_positions),
        ("type_embedding", "token_type_embeddings", encoder.type_vocab_size),
    ):
        path = f"embeddings.{old}.weight"
        names.take(f"encoder.{new}", (rows, width), path, f"bert.{path}")
    _rename_norm(names, "encoder.embedding_norm", "embeddings.LayerNorm", width)
    for number in range(encoder.num_layers):
        old, new = f"encoder.layer.{number}", f"encoder.layers.{number}"
        for ours, theirs, shape in (
            ("attention.q", "attention.self.query", (width, width)),
            ("attention.k", "attention.self.key", (width, width)),
            ("attention.v", "attention.self.value", (width, width)),
            ("attention.o", "attention.output.dense", (width, width)),
            ("mlp.wi", "intermediate.dense", (width, encoder.d_ff)),
            ("mlp.wo", "output.dense", (encoder.d_ff, width)),
        ):
            weight, bias = f"{old}.{theirs}.weight", f"{old}.{theirs}.bias"
            names.take(f"{new}.{ours}.kernel", shape, weight, f"bert.{weight}", transpose=True)
            names.take(f"{new}.{ours}.bias", shape[1:], bias, f"bert.{bias}")
        _rename_norm(names, f"{new}.attention_norm", f"{old}.attention.output.LayerNorm", width)
        _rename_norm(names, f"{new}.mlp_norm", f"{old}.output.LayerNorm", width)
    return names.result()


def _rename_norm(names: RenamedTensors, new: str, old: str, width: int) -> None:
    # Checkpoints converted from TensorFlow before 2019 say gamma and beta.
    for ours, theirs in (("scale", ("weight", "gamma")), ("bias", ("bias", "beta"))):
        paths = [f"{old}.{name}" for name in theirs]
        names.take(f"{new}.{ours}", (width,), *paths, *(f"bert.{path}" for path in paths))
