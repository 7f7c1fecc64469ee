"""The built-in `sample`: what the package carries of it, and what it takes from MiniLM."""

from __future__ import annotations

import numpy as np
import pytest

from glimmer import UsageError
from glimmer.encoders.builtin_models import SAMPLE
from glimmer.encoders.model_directory import WEIGHTS
from glimmer.encoders.models import LoadedModel, load_model
from glimmer.encoders.weights import read_safetensors


@pytest.fixture(scope="module")
def sample() -> LoadedModel:
    try:
        return load_model("sample")
    except UsageError as error:
        pytest.skip(str(error))


def test_the_package_carries_at_most_40_megabytes_and_nothing_that_minilm_has() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) <= 40_000_000
    own = read_safetensors(SAMPLE / WEIGHTS)
    memory_layers = 3
    assert "encoder.embedding" not in own
    assert all(name.startswith(("decoder.", "reranker.")) or int(name.split(".")[2]) >= memory_layers for name in own)
    assert {str(own.lazy(name).dtype) for name in own if len(own.lazy(name).shape) > 1} == {"bfloat16"}


def test_its_memory_layers_are_minilms_and_its_live_layers_are_not(
    sample: LoadedModel, minilm_model: LoadedModel
) -> None:
    assert (sample.config.memory_layers, sample.config.live_a_layers, sample.config.live_b_layers) == (3, 2, 1)
    for layer, same in ((0, True), (2, True), (3, False), (5, False)):
        name = f"encoder.layers.{layer}.mlp.wi.kernel"
        assert np.array_equal(sample.tensors[name], minilm_model.tensors[name]) is same
    np.testing.assert_array_equal(sample.tensors["encoder.embedding"], minilm_model.tensors["encoder.embedding"])


def test_its_card_says_what_it_was_trained_on_and_how_good_it_is(sample: LoadedModel) -> None:
    card = (sample.path / "README.md").read_text()
    for said in ("Apache-2.0", "CC BY-SA", "EM", "recall@1", "Limits"):
        assert said in card
