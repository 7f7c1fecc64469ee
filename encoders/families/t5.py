"""T5 1.1 and 1.0 (Raffel et al., arXiv 1910.10683; mT5 has the same layers), from Hugging Face and from T5X."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ... import ModelError, UsageError
from ..hugging_face import HuggingFaceConfig, RenamedTensors, directory_tensors, model_type, tokenizer_file
from ..strict_json import Section
from ..t5x_checkpoint import MOST_LAYERS, is_msgpack_map, layer_count, read_t5x, unscan
from ..weights import LazyTensor, Tensors, in_memory
from .encoder_family import EncoderConfig, EncoderFamily, ImportedCheckpoint, TokenizerSpec
from .family_registry import read_encoder_config

if TYPE_CHECKING:
    from flax import nnx
    from jax.typing import DTypeLike

    from ..layered import LayeredEncoder
    from ..tokenizers import Tokenizer

_TOKENIZER = TokenizerSpec(kind="sentencepiece", file="spiece.model")

T5_1_1_SIZES = {
    "t5-small": (512, 1024, 8, 6),
    "t5-base": (768, 2048, 12, 12),
    "t5-large": (1024, 2816, 24, 16),
    "t5-xl": (2048, 5120, 24, 32),
    "t5-xxl": (4096, 10240, 24, 64),
}
"""Released sizes of T5 1.1: d_model, d_ff, layers (encoder and decoder alike), heads; heads are 64 wide."""


@dataclass(frozen=True, kw_only=True)
class T5Config(EncoderConfig):
    """A T5 encoder's hyperparameters.

    Attributes:
        relative_buckets, relative_max_distance: of relative positions (section 2.1 of the paper): half of the buckets
            for each direction, logarithmic up to that distance.
        gated: gated GELU (1.1) rather than ReLU (1.0) in the feed-forward layers.
    """

    family = "t5"

    relative_buckets: int = 32
    relative_max_distance: int = 128
    gated: bool = True

    @classmethod
    def take(cls, section: Section) -> Self:
        common = cls.take_common(section)
        buckets = section.integer("relative_buckets", least=4, most=1 << 16)
        distance = section.integer("relative_max_distance", least=2, most=1 << 20)
        if buckets % 4 != 0:
            section.fail(f"must be a multiple of 4, not {buckets}", "relative_buckets")
        if distance <= buckets // 2:
            section.fail(f"must exceed half of relative_buckets ({buckets}), not {distance}", "relative_max_distance")
        gated = section.boolean("gated")
        return cls(**common, relative_buckets=buckets, relative_max_distance=distance, gated=gated)

    def layer_cost(self, tokens: int) -> int:
        return super().layer_cost(tokens) + tokens * self.gated * self.d_model * self.d_ff

    @classmethod
    def released(cls, size: str) -> Self:
        """T5 1.1 of one of `T5_1_1_SIZES`."""
        width, d_ff, layers, heads = T5_1_1_SIZES[size]
        return cls(
            vocab_size=32_128,
            d_model=width,
            d_ff=d_ff,
            num_heads=heads,
            d_kv=64,
            num_layers=layers,
            layer_norm_eps=1e-6,
        )


def _open_sentencepiece(path: Path) -> Tokenizer:
    from ..tokenizers import SentencePieceTokenizer

    return SentencePieceTokenizer(path)


class T5Family(EncoderFamily):
    """T5's encoder; its checkpoints bring a decoder too, unless they are of the encoder alone."""

    name = "t5"
    config = T5Config
    passage_template = "title: {title} context: {text}"
    question_template = "question: {question}"
    pre_norm = True
    context_parameters = ("relative_bias",)
    final_parameters = ("final_norm",)
    tokenizers: ClassVar = {"sentencepiece": _open_sentencepiece}
    checkpoints = "T5 v1.1 (a Hugging Face directory of model_type 't5', or a T5X file)"

    def module(
        self, config: EncoderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, layer_range: range | None = None
    ) -> LayeredEncoder:
        from ..t5_layers import T5Encoder

        assert isinstance(config, T5Config)
        return T5Encoder(config, rngs=rngs, dtype=dtype, layer_range=layer_range)

    def recognises(self, source: Path) -> bool:
        return is_msgpack_map(source) if source.is_file() else model_type(source) in ("t5", "mt5")

    def import_checkpoint(self, source: Path, tokenizer: Path | None) -> ImportedCheckpoint:
        if source.is_dir():
            return _import_directory(source, tokenizer)
        if tokenizer is None:
            raise UsageError(f"{source}: a T5X checkpoint brings no tokenizer: give its spiece.model (--tokenizer)")
        return _import_t5x(source, tokenizer)


FAMILY = T5Family()


def _decoder_section(encoder: T5Config, num_layers: int, *, tied_head: bool) -> dict[str, Any]:
    """The decoder's section of config.json for a T5 decoder that goes with `encoder`; every key the reader asks for.

    T5 1.0 writes words through its embedding, and divides by the root of the width before.
    """
    return {
        "vocab_size": encoder.vocab_size,
        "d_model": encoder.d_model,
        "d_ff": encoder.d_ff,
        "num_heads": encoder.num_heads,
        "d_kv": encoder.d_kv,
        "num_layers": num_layers,
        "layer_norm_eps": encoder.layer_norm_eps,
        "relative_buckets": encoder.relative_buckets,
        "relative_max_distance": encoder.relative_max_distance,
        "gated": encoder.gated,
        "shared_embedding": True,
        "tied_head": tied_head,
        "kv_heads": encoder.num_heads,
        "cross_every": 1,
        "head_scale": encoder.d_model**-0.5 if tied_head else 1.0,
        "start_id": 0,
        "eos_id": 1,
        "pad_id": 0,
    }


def _import_directory(directory: Path, tokenizer: Path | None) -> ImportedCheckpoint:
    defaults = {
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "num_decoder_layers": None,
        "tie_word_embeddings": True,
    }
    read = HuggingFaceConfig(directory, defaults)
    projection = read.text("feed_forward_proj", among=("gated-gelu", "relu"))
    encoder = T5Config(
        vocab_size=read.integer("vocab_size"),
        d_model=read.integer("d_model"),
        d_ff=read.integer("d_ff"),
        num_heads=read.integer("num_heads"),
        d_kv=read.integer("d_kv"),
        num_layers=read.integer("num_layers"),
        layer_norm_eps=read.number("layer_norm_epsilon", above=0.0, most=1.0),
        relative_buckets=read.integer("relative_attention_num_buckets"),
        relative_max_distance=read.integer("relative_attention_max_distance"),
        gated=projection == "gated-gelu",
    )
    read_encoder_config(encoder.to_json(), read.where)
    tied = read.boolean("tie_word_embeddings")
    depth = read.take("num_decoder_layers")
    decoder_layers = encoder.num_layers if depth is None else depth
    if not isinstance(decoder_layers, int) or not 1 <= decoder_layers <= MOST_LAYERS:
        read.fail(f"must be a positive integer, not {decoder_layers!r:.40}", "num_decoder_layers")
    tensors = rename_t5(directory_tensors(directory), encoder, decoder_layers=decoder_layers, tied_head=tied)
    has_decoder = "decoder.relative_bias" in tensors
    return ImportedCheckpoint(
        encoder=encoder,
        decoder=_decoder_section(encoder, decoder_layers, tied_head=tied) if has_decoder else None,
        tensors=tensors,
        tokenizer=_TOKENIZER,
        tokenizer_file=tokenizer_file(directory, tokenizer, "spiece.model"),
        source=f"Hugging Face T5, {directory.name}",
    )


def rename_t5(tensors: Tensors, encoder: T5Config, *, decoder_layers: int, tied_head: bool) -> Tensors:
    """Hugging Face T5 tensors under Glimmer's names; the decoder's too where the checkpoint has one."""
    names = RenamedTensors(tensors)
    embedding = (encoder.vocab_size, encoder.d_model)
    names.take("encoder.embedding", embedding, "shared.weight", "encoder.embed_tokens.weight")
    _rename_stack(names, encoder, "encoder", encoder.num_layers)
    if any(name.startswith("decoder.block.") for name in tensors):
        _rename_stack(names, encoder, "decoder", decoder_layers)
        if not tied_head:
            names.take("decoder.lm_head.kernel", embedding[::-1], "lm_head.weight", transpose=True)
    return names.result()


def _rename_stack(names: RenamedTensors, config: T5Config, side: str, layers: int) -> None:
    width, inner = config.d_model, config.num_heads * config.d_kv
    first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    names.take(f"{side}.relative_bias", (config.relative_buckets, config.num_heads), first)
    names.take(f"{side}.final_norm.scale", (width,), f"{side}.final_layer_norm.weight")
    attentions = [("SelfAttention", "attention")]
    if side == "decoder":
        attentions = [("SelfAttention", "self_attention"), ("EncDecAttention", "cross_attention")]
    for number in range(layers):
        old, new = f"{side}.block.{number}.layer", f"{side}.layers.{number}"
        for place, (theirs, ours) in enumerate(attentions):
            norm = ours.removesuffix("attention") + "norm" if side == "decoder" else "attention_norm"
            names.take(f"{new}.{norm}.scale", (width,), f"{old}.{place}.layer_norm.weight")
            for part in "qkvo":
                shape = (inner, width) if part == "o" else (width, inner)
                weight = f"{old}.{place}.{theirs}.{part}.weight"
                names.take(f"{new}.{ours}.{part}.kernel", shape, weight, transpose=True)
        last = f"{old}.{len(attentions)}"
        names.take(f"{new}.mlp_norm.scale", (width,), f"{last}.layer_norm.weight")
        ups = {"wi_0": "wi_0", "wi_1": "wi_1"} if config.gated else {"wi_0": "wi"}
        for ours, theirs in ups.items():
            weight = f"{last}.DenseReluDense.{theirs}.weight"
            names.take(f"{new}.mlp.{ours}.kernel", (width, config.d_ff), weight, transpose=True)
        weight = f"{last}.DenseReluDense.wo.weight"
        names.take(f"{new}.mlp.wo.kernel", (config.d_ff, width), weight, transpose=True)


def _import_t5x(path: Path, tokenizer: Path) -> ImportedCheckpoint:
    tensors = unscan(in_memory(read_t5x(path), str(path)))
    names = RenamedTensors(tensors)
    vocab_size, width = names.matrix("token_embedder/embedding")
    heads, buckets = names.matrix("encoder/relpos_bias/rel_embedding")
    inner = math.prod(names.find("encoder/layers_0/attention/query/kernel").shape) // max(width, 1)
    if heads < 1 or inner % heads:
        raise ModelError(f"{path}: query kernels of width {inner} do not divide into {heads} heads")
    gated = "encoder/layers_0/mlp/wi_0/kernel" in tensors
    _, hidden = names.matrix(f"encoder/layers_0/mlp/{'wi_0' if gated else 'wi'}/kernel")
    encoder = T5Config(
        vocab_size=vocab_size,
        d_model=width,
        d_ff=hidden,
        num_heads=heads,
        d_kv=inner // heads,
        num_layers=layer_count(tensors, "encoder"),
        layer_norm_eps=1e-6,
        relative_buckets=buckets,
        relative_max_distance=128,
        gated=gated,
    )
    read_encoder_config(encoder.to_json(), str(path))
    names.take("encoder.embedding", (vocab_size, width), "token_embedder/embedding")
    _rename_t5x_stack(names, encoder, "encoder", encoder.num_layers)
    depth, tied = layer_count(tensors, "decoder"), "decoder/logits_dense/kernel" not in tensors
    if depth:
        _rename_t5x_stack(names, encoder, "decoder", depth)
        if not tied:
            names.take("decoder.lm_head.kernel", (width, vocab_size), "decoder/logits_dense/kernel")
    return ImportedCheckpoint(
        encoder=encoder,
        decoder=_decoder_section(encoder, depth, tied_head=tied) if depth else None,
        tensors=names.result(),
        tokenizer=_TOKENIZER,
        tokenizer_file=tokenizer_file(path.parent, tokenizer, "spiece.model"),
        source=f"T5X checkpoint, {path.name}",
    )


def _flat_kernel(entry: LazyTensor, width: int) -> LazyTensor:
    """Attention kernels with separate head axes, (embed, heads, kv) or (heads, kv, embed), as matrices."""
    if len(entry.shape) == 3:
        if entry.shape[0] == width:
            return entry.reshaped(width, entry.shape[1] * entry.shape[2])
        return entry.reshaped(entry.shape[0] * entry.shape[1], entry.shape[2])
    return entry


def _rename_t5x_stack(names: RenamedTensors, config: T5Config, side: str, layers: int) -> None:
    width, inner = config.d_model, config.num_heads * config.d_kv
    table = f"{side}/relpos_bias/rel_embedding"  # [heads, buckets] there
    names.take(f"{side}.relative_bias", (config.relative_buckets, config.num_heads), table, transpose=True)
    names.take(f"{side}.final_norm.scale", (width,), f"{side}/{side}_norm/scale")
    attentions = [("attention", "attention", "attention_norm", "pre_attention_layer_norm")]
    if side == "decoder":
        attentions = [
            ("self_attention", "self_attention", "self_norm", "pre_self_attention_layer_norm"),
            ("cross_attention", "encoder_decoder_attention", "cross_norm", "pre_cross_attention_layer_norm"),
        ]
    for number in range(layers):
        old, new = f"{side}/layers_{number}", f"{side}.layers.{number}"
        for ours, theirs, our_norm, their_norm in attentions:
            names.take(f"{new}.{our_norm}.scale", (width,), f"{old}/{their_norm}/scale")
            for part, name in zip("qkvo", ("query", "key", "value", "out"), strict=True):
                path = f"{old}/{theirs}/{name}/kernel"
                names.entries[f"{new}.{ours}.{part}.kernel"] = entry = _flat_kernel(names.find(path), width)
                wanted = (inner, width) if part == "o" else (width, inner)
                if entry.shape != wanted:
                    raise ModelError(f"{names.origin}: {path} is {list(entry.shape)}, expected {list(wanted)}")
        names.take(f"{new}.mlp_norm.scale", (width,), f"{old}/pre_mlp_layer_norm/scale")
        ups = {"wi_0": "wi_0", "wi_1": "wi_1"} if config.gated else {"wi_0": "wi"}
        for ours, theirs in ups.items():
            names.take(f"{new}.mlp.{ours}.kernel", (width, config.d_ff), f"{old}/mlp/{theirs}/kernel")
        names.take(f"{new}.mlp.wo.kernel", (config.d_ff, width), f"{old}/mlp/wo/kernel")
