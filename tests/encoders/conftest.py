"""Small real models for the encoder tests: random weights of either family with a word-piece tokenizer made here."""

from __future__ import annotations

import functools
import importlib.util
import string
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
import tokenizers
from flax import nnx

from glimmer import UsageError
from glimmer.encoders.families.encoder_family import EncoderConfig, TokenizerSpec
from glimmer.encoders.families.family_registry import find_family
from glimmer.encoders.model_config import ModelConfig
from glimmer.encoders.model_directory import save_model
from glimmer.encoders.models import LoadedModel, load_model

MakeModel = Callable[..., LoadedModel]
VOCABULARY = 30528


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The directory of committed goldens."""
    return Path(__file__).resolve().parent.parent / "goldens"


@pytest.fixture(scope="session")
def weights(goldens: Path) -> ModuleType:
    """`tests/goldens/random_weights.py`, which draws weights as the golden scripts did."""
    spec = importlib.util.spec_from_file_location("random_weights", goldens / "random_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def minilm_model() -> LoadedModel:
    """The real MiniLM, where its package is installed."""
    try:
        return load_model("minilm")
    except UsageError as error:
        pytest.skip(str(error))


def word_pieces() -> bytes:
    """A tokenizer.json whose pieces are single characters, with and without `##`."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    pieces += [mark + letter for mark in ("", "##") for letter in string.ascii_lowercase + string.digits + ".,:"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made.to_str().encode()


def jitted(encoder: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(encoder, *arrays)` compiled as one program of the encoder's state and the arrays."""
    graph, state = nnx.split(encoder)
    compiled = jax.jit(lambda state, *arrays: function(nnx.merge(graph, state), *arrays))
    return functools.partial(compiled, state)


@pytest.fixture(scope="session")
def compiled() -> Callable[[Any, Callable[..., Any]], Callable[..., Any]]:
    """The helper `jitted`, for test modules."""
    return jitted


def encoder_tensors(config: EncoderConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """A random encoder's tensors under their names in a model directory."""
    state = nnx.state(find_family(config.family).module(config, rngs=nnx.Rngs(seed), dtype="float32"))
    return {".".join(["encoder", *map(str, path)]): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def small_config(family: str, split: tuple[int, int, int], window: int = 64) -> ModelConfig:
    """The configuration of a small model of `family` with (memory, live A, live B) layers."""
    shape = {"vocab_size": VOCABULARY, "d_model": 32, "d_ff": 64, "num_heads": 4, "d_kv": 8, "num_layers": sum(split)}
    if family == "t5":
        extra = {"layer_norm_eps": 1e-6, "relative_buckets": 32, "relative_max_distance": 128, "gated": True}
    else:
        extra = {"layer_norm_eps": 1e-12, "max_positions": 128, "type_vocab_size": 2}
    return ModelConfig(
        encoder=find_family(family).config(**shape, **extra),  # type: ignore[arg-type]
        memory_layers=split[0],
        live_a_layers=split[1],
        live_b_layers=split[2],
        tokenizer=TokenizerSpec(kind="wordpiece", file="tokenizer.json"),
        passage_template="{title}: {text}",
        question_template="{question}",
        source="random",
        window=window,
    )


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Makes and opens a model directory with a small random encoder of either family."""

    def make(
        family: str = "bert", *, split: tuple[int, int, int] = (2, 1, 0), window: int = 64, seed: int = 0
    ) -> LoadedModel:
        config = small_config(family, split, window)
        directory = tmp_path_factory.mktemp("model") / "m"
        tensors = encoder_tensors(config.encoder, seed)
        save_model(directory, config, tensors, {"tokenizer.json": word_pieces()}, "random")
        return load_model(directory)

    return make
