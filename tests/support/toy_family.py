"""A whole encoder family in one module, for tests: a model of averages, its checkpoints, and a tokenizer of words.

A layer adds to every token what a feed-forward network makes of it and of the mean of all tokens; positions are a decay
of the embedding. A checkpoint is a directory with `toy.json`, `toy.npz` and `words.txt`, one word a line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glimmer import ModelError
from glimmer.encoders.families.encoder_family import EncoderConfig, EncoderFamily, ImportedCheckpoint, TokenizerSpec
from glimmer.encoders.hugging_face import RenamedTensors
from glimmer.encoders.layered import Context, LayerStack, mask_bias
from glimmer.encoders.primitives import Linear, RMSNorm
from glimmer.encoders.strict_json import Section, read_json
from glimmer.encoders.tokenizers import Ids, WordParts
from glimmer.encoders.weights import in_memory

PAD, END, UNKNOWN = range(3)


@dataclass(frozen=True, kw_only=True)
class ToyConfig(EncoderConfig):
    """`decay` is what the embedding of each further position is multiplied by."""

    family = "toy"

    decay: float = field()

    @classmethod
    def take(cls, section: Section) -> Self:
        return cls(**cls.take_common(section), decay=section.number("decay", above=0.0, most=1.0))

    def layer_cost(self, tokens: int) -> int:
        return tokens * 2 * self.d_model * self.d_model


class ToyLayer(nnx.Module):
    def __init__(self, config: ToyConfig, *, rngs: nnx.Rngs) -> None:
        self.own = Linear(config.d_model, config.d_model, rngs=rngs)
        self.out = Linear(config.d_model, config.d_model, rngs=rngs)

    def __call__(self, hidden: jax.Array, context: Context, *, dtype: Any, dropout_rate: float, key: Any) -> jax.Array:
        weights = jax.nn.softmax(context.mask[:, 0], axis=-1)  # [B,1,S], equal over real tokens
        mean = weights @ hidden
        inner = jnp.tanh(self.own(hidden + mean, dtype=dtype, out_dtype=jnp.float32))
        return hidden + self.out(inner, dtype=dtype, out_dtype=jnp.float32)


class ToyEncoder(LayerStack):
    def __init__(self, config: ToyConfig, *, rngs: nnx.Rngs, dtype: Any, layer_range: range | None) -> None:
        self.decay, self.dtype = config.decay, dtype
        self.layer_range = range(config.num_layers) if layer_range is None else layer_range
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (config.vocab_size, config.d_model), jnp.float32))
        self.layers = nnx.List([ToyLayer(config, rngs=rngs) for _ in self.layer_range])
        self.last_norm = RMSNorm(config.d_model, config.layer_norm_eps)

    def embed(self, tokens: jax.Array) -> jax.Array:
        decay = self.decay ** jnp.arange(tokens.shape[1], dtype=jnp.float32)
        return self.embedding[...][tokens].astype(jnp.float32) * decay[:, None]

    def context(self, mask: jax.Array, positions: jax.Array | None = None) -> Context:
        return Context(mask=mask_bias(mask))

    def finish(self, hidden: jax.Array) -> jax.Array:
        return self.last_norm(hidden)


class WordTokenizer:
    """Words by white space, in lower case; unknown ones are all one token."""

    pad_id = bos_id = PAD
    eos_id, unk_id = END, UNKNOWN

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ModelError("no such file", where=path)
        self.words = ["<pad>", "<end>", "<unknown>", *path.read_text(encoding="utf-8").split()]
        self.vocab_size = len(self.words)
        self._ids = {word: number for number, word in enumerate(self.words)}

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return [np.append(ids, np.int32(END)) for ids in self.encode_plain(texts)]

    def encode_plain(self, texts: Sequence[str]) -> list[Ids]:
        known = self._ids
        return [np.array([known.get(word, UNKNOWN) for word in text.lower().split()], np.int32) for text in texts]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        return " ".join(self.words[i] for i in map(int, ids) if UNKNOWN < i < self.vocab_size)

    def encode_with_offsets(self, text: str) -> None:
        return None

    def word_parts(self) -> WordParts:
        return WordParts(np.zeros(self.vocab_size, np.bool_), np.zeros(self.vocab_size, np.bool_))

    def identity_bytes(self) -> bytes:
        return b"words\0" + "\n".join(self.words).encode()


class ToyFamily(EncoderFamily):
    name = "toy"
    config = ToyConfig
    passage_template = "{title} | {text}"
    question_template = "? {question}"
    pre_norm = True
    final_parameters = ("last_norm",)
    output_kernels = ("out",)
    tokenizers: ClassVar = {"words": WordTokenizer}
    checkpoints = "toy (a directory with toy.json)"

    def module(
        self, config: EncoderConfig, *, rngs: nnx.Rngs, dtype: Any, layer_range: range | None = None
    ) -> ToyEncoder:
        assert isinstance(config, ToyConfig)
        return ToyEncoder(config, rngs=rngs, dtype=dtype, layer_range=layer_range)

    def recognises(self, source: Path) -> bool:
        return (source / "toy.json").is_file()

    def import_checkpoint(self, source: Path, tokenizer: Path | None) -> ImportedCheckpoint:
        record: Any = read_json(source / "toy.json")
        encoder = ToyConfig(**record["encoder"])
        with np.load(source / "toy.npz") as file:
            arrays = dict(file)
        names = RenamedTensors(in_memory(arrays, str(source / "toy.npz")))
        width = encoder.d_model
        names.take("encoder.embedding", (encoder.vocab_size, width), "table")
        names.take("encoder.last_norm.scale", (width,), "norm")
        for number in range(encoder.num_layers):
            for part in ("own", "out"):
                new = f"encoder.layers.{number}.{part}.kernel"
                names.take(new, (width, width), f"{part}{number}", transpose=True)
        for name in arrays:
            if name.startswith("decoder."):
                names.entries[name] = names.find(name)
        return ImportedCheckpoint(
            encoder=encoder,
            decoder=record["decoder"],
            tensors=names.result(),
            tokenizer=TokenizerSpec(kind="words", file="words.txt"),
            tokenizer_file=tokenizer or source / "words.txt",
            source=f"toy, {source.name}",
        )


FAMILY = ToyFamily()


def write_checkpoint(directory: Path, config: ToyConfig, decoder: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """A checkpoint as `import_checkpoint` reads it, of tensors under Glimmer's names and `words.txt` as it is there."""
    theirs = {"encoder.embedding": "table", "encoder.last_norm.scale": "norm"}
    for number in range(config.num_layers):
        theirs |= {f"encoder.layers.{number}.{part}.kernel": f"{part}{number}" for part in ("own", "out")}
    arrays = {
        theirs.get(name, name): value.T if name.startswith("encoder.layers.") else value
        for name, value in tensors.items()
        if not name.startswith("reranker.")
    }
    np.savez(directory / "toy.npz", **arrays)
    encoder = {key: value for key, value in config.to_json().items() if key != "family"}
    (directory / "toy.json").write_text(json.dumps({"encoder": encoder, "decoder": decoder}))
    return directory
