"""Other people's checkpoints as Glimmer's tensors: Hugging Face directories of T5 and BERT, and T5X files.

The result is an `Imported`: the encoder's hyperparameters, the decoder's (T5 only), and lazy tensors under Glimmer's
names, kernels as [in, out]. What a checkpoint's configuration says is checked against what the layers here compute: an
activation or a position scheme that they do not have is refused, never approximated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import ModelError, UsageError
from .model_config import EncoderConfig, Section, TokenizerSpec, read_json
from .t5x_checkpoint import read_t5x
from .torch_archive import read_torch
from .weights import LazyTensor, Tensors, in_memory, read_safetensors, read_sharded

_MOST_LAYERS = 1024


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A checkpoint in Glimmer's terms. `decoder` is None for an encoder alone; `tokenizer_file` lies there now."""

    encoder: EncoderConfig
    decoder: Mapping[str, Any] | None
    tensors: Tensors
    tokenizer: TokenizerSpec
    tokenizer_file: Path
    source: str


def import_checkpoint(source: Path, *, tokenizer: Path | None = None) -> Imported:
    """Reads a Hugging Face directory, or a T5X checkpoint file together with its `tokenizer` (a spiece.model).

    ModelError names the file and what is wrong; UsageError when `source` is neither or the tokenizer is missing.
    """
    if source.is_dir():
        config = read_json(source / "config.json")
        kind = config.get("model_type") if isinstance(config, Mapping) else None
        if kind in ("t5", "mt5"):
            return _t5_directory(source, config, tokenizer)
        if kind == "bert":
            return _bert_directory(source, config, tokenizer)
        raise ModelError(f"{source}/config.json: model_type is {kind!r}; T5 v1.1 ('t5') and 'bert' are supported")
    if source.is_file():
        if tokenizer is None:
            raise UsageError(f"{source}: a T5X checkpoint brings no tokenizer: give its spiece.model (--tokenizer)")
        return _t5x_file(source, tokenizer)
    raise UsageError(f"{source}: no such directory or file")


def _directory_tensors(directory: Path) -> Tensors:
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_torch)):
        if (directory / name).exists():
            return read(directory / name)
        if (directory / f"{name}.index.json").exists():
            return read_sharded(directory, f"{name}.index.json", read)
    raise ModelError(f"{directory}: no weights (model.safetensors or pytorch_model.bin, or an index of their parts)")


def _tokenizer_file(directory: Path, given: Path | None, name: str) -> Path:
    path = given if given is not None else directory / name
    if not path.is_file():
        raise ModelError(f"{path}: no such file; the tokenizer is needed (give --tokenizer FILE if it lies elsewhere)")
    return path


class _Defaults(Section):
    """A Hugging Face config.json: only the keys that matter are taken, an absent one has the library's default."""

    def __init__(self, value: object, where: str, defaults: Mapping[str, object]) -> None:
        merged = dict(defaults) | dict(value) if isinstance(value, Mapping) else value
        super().__init__(merged, "", where)


class _Names:
    """Collects tensors under new names, from the first of several old ones that exists."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self.origin = tensors.origin
        self.entries: dict[str, LazyTensor] = {}

    def find(self, *names: str) -> LazyTensor:
        for name in names:
            if name in self._tensors.entries:
                return self._tensors.entries[name]
        return self._tensors.lazy(names[0])

    def take(self, new: str, shape: tuple[int, ...], *names: str, transpose: bool = False) -> None:
        entry = self.find(*names)
        if transpose and len(entry.shape) == 2:
            entry = entry.transposed()
        if entry.shape != shape:
            raise ModelError(f"{self.origin}: {names[0]} makes {new} {list(entry.shape)}; expected {list(shape)}")
        self.entries[new] = entry

    def matrix(self, name: str) -> tuple[int, int]:
        """Rows and columns of a tensor that must be two-dimensional."""
        shape = self.find(name).shape
        if len(shape) != 2:
            raise ModelError(f"{self.origin}: {name} is {list(shape)}, expected a matrix")
        return shape[0], shape[1]

    def result(self) -> Tensors:
        return Tensors(self.entries, self._tensors.origin)


def decoder_mapping(encoder: EncoderConfig, num_layers: int, *, tied_head: bool) -> dict[str, Any]:
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


def _t5_directory(directory: Path, config: object, tokenizer: Path | None) -> Imported:
    where = f"{directory}/config.json"
    defaults = {
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "num_decoder_layers": None,
        "tie_word_embeddings": True,
    }
    read = _Defaults(config, where, defaults)
    projection = read.text("feed_forward_proj", among=("gated-gelu", "relu"))
    encoder = EncoderConfig(
        family="t5",
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
    EncoderConfig.from_json(encoder.to_json(), where)
    tied = read.boolean("tie_word_embeddings")
    depth = read.take("num_decoder_layers")
    decoder_layers = encoder.num_layers if depth is None else depth
    if not isinstance(decoder_layers, int) or not 1 <= decoder_layers <= _MOST_LAYERS:
        read.fail(f"must be a positive integer, not {decoder_layers!r:.40}", "num_decoder_layers")
    tensors = map_t5(_directory_tensors(directory), encoder, decoder_layers=decoder_layers, tied_head=tied)
    has_decoder = "decoder.relative_bias" in tensors
    return Imported(
        encoder=encoder,
        decoder=decoder_mapping(encoder, decoder_layers, tied_head=tied) if has_decoder else None,
        tensors=tensors,
        tokenizer=TokenizerSpec(kind="sentencepiece", file="spiece.model"),
        tokenizer_file=_tokenizer_file(directory, tokenizer, "spiece.model"),
        source=f"Hugging Face T5, {directory.name}",
    )


def map_t5(tensors: Tensors, encoder: EncoderConfig, *, decoder_layers: int, tied_head: bool) -> Tensors:
    """Hugging Face T5 tensors under Glimmer's names; the decoder's too where the checkpoint has one."""
    names = _Names(tensors)
    embedding = (encoder.vocab_size, encoder.d_model)
    names.take("encoder.embedding", embedding, "shared.weight", "encoder.embed_tokens.weight")
    _t5_stack(names, encoder, "encoder", encoder.num_layers)
    if any(name.startswith("decoder.block.") for name in tensors):
        _t5_stack(names, encoder, "decoder", decoder_layers)
        if not tied_head:
            names.take("decoder.lm_head.kernel", embedding[::-1], "lm_head.weight", transpose=True)
    return names.result()


def _t5_stack(names: _Names, config: EncoderConfig, side: str, layers: int) -> None:
    width, inner = config.d_model, config.num_heads * config.d_kv
    first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    names.take(f"{side}.relative_bias", (config.relative_buckets or 0, config.num_heads), first)
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


def _bert_directory(directory: Path, config: object, tokenizer: Path | None) -> Imported:
    where = f"{directory}/config.json"
    defaults = {"hidden_act": "gelu", "position_embedding_type": "absolute", "layer_norm_eps": 1e-12}
    read = _Defaults(config, where, defaults | {"type_vocab_size": 2, "max_position_embeddings": 512})
    read.text("hidden_act", among=("gelu",))
    read.text("position_embedding_type", among=("absolute",))
    width, heads = read.integer("hidden_size"), read.integer("num_attention_heads")
    if width % heads:
        read.fail(f"({width}) is not a multiple of num_attention_heads ({heads})", "hidden_size")
    encoder = EncoderConfig(
        family="bert",
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
    EncoderConfig.from_json(encoder.to_json(), where)
    return Imported(
        encoder=encoder,
        decoder=None,
        tensors=map_bert(_directory_tensors(directory), encoder),
        tokenizer=TokenizerSpec(kind="wordpiece", file="tokenizer.json"),
        tokenizer_file=_tokenizer_file(directory, tokenizer, "tokenizer.json"),
        source=f"Hugging Face BERT, {directory.name}",
    )


def map_bert(tensors: Tensors, encoder: EncoderConfig) -> Tensors:
    """Hugging Face BERT tensors (with or without a `bert.` prefix) under Glimmer's names."""
    names, width = _Names(tensors), encoder.d_model
    for new, old, rows in (
        ("embedding", "word_embeddings", encoder.vocab_size),
        ("position_embedding", "position_embeddings", encoder.max_positions or 0),
        ("type_embedding", "token_type_embeddings", encoder.type_vocab_size or 0),
    ):
        path = f"embeddings.{old}.weight"
        names.take(f"encoder.{new}", (rows, width), path, f"bert.{path}")
    _bert_norm(names, "encoder.embedding_norm", "embeddings.LayerNorm", width)
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
        _bert_norm(names, f"{new}.attention_norm", f"{old}.attention.output.LayerNorm", width)
        _bert_norm(names, f"{new}.mlp_norm", f"{old}.output.LayerNorm", width)
    return names.result()


def _bert_norm(names: _Names, new: str, old: str, width: int) -> None:
    # Checkpoints converted from TensorFlow before 2019 say gamma and beta.
    for ours, theirs in (("scale", ("weight", "gamma")), ("bias", ("bias", "beta"))):
        paths = [f"{old}.{name}" for name in theirs]
        names.take(f"{new}.{ours}", (width,), *paths, *(f"bert.{path}" for path in paths))


def _t5x_file(path: Path, tokenizer: Path) -> Imported:
    tensors = in_memory(read_t5x(path), str(path))
    names = _Names(tensors)
    vocab_size, width = names.matrix("token_embedder/embedding")
    # With scanned layers the parts of all layers are one array with the layers on axis 1, named without a number.
    scanned = any(name.startswith("encoder/encoder/") for name in tensors)
    if scanned:
        tensors = _unscan(tensors)
        names = _Names(tensors)
    heads, buckets = names.matrix("encoder/relpos_bias/rel_embedding")
    inner = math.prod(names.find("encoder/layers_0/attention/query/kernel").shape) // max(width, 1)
    if heads < 1 or inner % heads:
        raise ModelError(f"{path}: query kernels of width {inner} do not divide into {heads} heads")
    gated = "encoder/layers_0/mlp/wi_0/kernel" in tensors
    _, hidden = names.matrix(f"encoder/layers_0/mlp/{'wi_0' if gated else 'wi'}/kernel")
    encoder = EncoderConfig(
        family="t5",
        vocab_size=vocab_size,
        d_model=width,
        d_ff=hidden,
        num_heads=heads,
        d_kv=inner // heads,
        num_layers=_layers(tensors, "encoder"),
        layer_norm_eps=1e-6,
        relative_buckets=buckets,
        relative_max_distance=128,
        gated=gated,
    )
    EncoderConfig.from_json(encoder.to_json(), str(path))
    names.take("encoder.embedding", (vocab_size, width), "token_embedder/embedding")
    _t5x_stack(names, encoder, "encoder", encoder.num_layers)
    depth, tied = _layers(tensors, "decoder"), "decoder/logits_dense/kernel" not in tensors
    if depth:
        _t5x_stack(names, encoder, "decoder", depth)
        if not tied:
            names.take("decoder.lm_head.kernel", (width, vocab_size), "decoder/logits_dense/kernel")
    return Imported(
        encoder=encoder,
        decoder=decoder_mapping(encoder, depth, tied_head=tied) if depth else None,
        tensors=names.result(),
        tokenizer=TokenizerSpec(kind="sentencepiece", file="spiece.model"),
        tokenizer_file=_tokenizer_file(path.parent, tokenizer, "spiece.model"),
        source=f"T5X checkpoint, {path.name}",
    )


def _layers(tensors: Tensors, side: str) -> int:
    prefix = f"{side}/layers_"
    numbers = {name.removeprefix(prefix).split("/")[0] for name in tensors if name.startswith(prefix)}
    # Longer numbers are no layers of any model.
    return 1 + max((int(number) for number in numbers if number.isdecimal() and len(number) < 6), default=-1)


def _unscan(tensors: Tensors) -> Tensors:
    entries: dict[str, LazyTensor] = {}
    for name, entry in tensors.entries.items():
        side, _, rest = name.partition("/")
        inside = rest.removeprefix(f"{side}/")
        if inside == rest or len(entry.shape) < 2:
            entries[name] = entry
            continue
        if entry.shape[1] > _MOST_LAYERS:
            raise ModelError(f"{tensors.origin}: {name} is {list(entry.shape)}: more than {_MOST_LAYERS} layers")
        for number in range(entry.shape[1]):
            entries[f"{side}/layers_{number}/{inside}"] = entry.index(1, number)
    return Tensors(entries, tensors.origin)


def _flat_kernel(entry: LazyTensor, width: int) -> LazyTensor:
    """Attention kernels with separate head axes, (embed, heads, kv) or (heads, kv, embed), as matrices."""
    if len(entry.shape) == 3:
        if entry.shape[0] == width:
            return entry.reshaped(width, entry.shape[1] * entry.shape[2])
        return entry.reshaped(entry.shape[0] * entry.shape[1], entry.shape[2])
    return entry


def _t5x_stack(names: _Names, config: EncoderConfig, side: str, layers: int) -> None:
    width, inner = config.d_model, config.num_heads * config.d_kv
    table = f"{side}/relpos_bias/rel_embedding"  # [heads, buckets] there
    names.take(f"{side}.relative_bias", (config.relative_buckets or 0, config.num_heads), table, transpose=True)
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
