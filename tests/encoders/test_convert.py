"""`convert`: every checkpoint form becomes a model directory that loads; layers are shared out, rounding is told."""

from __future__ import annotations

import json
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimmer import ModelError, UsageError
from glimmer.encoders.memory_encoder import MemoryEncoder
from glimmer.encoders.models import LoadedModel, load_model
from glimmer.pipelines.convert import convert, split_layers
from glimmer.reader.config import ReaderConfig


@pytest.fixture
def t5x(t5_files: Path) -> dict[str, Any]:
    return {"source": t5_files / "test_t5_tiny.checkpoint_0", "tokenizer": t5_files / "spiece.model"}


def test_a_t5x_checkpoint_becomes_a_model_that_encodes(t5x: dict[str, Any], tmp_path: Path) -> None:
    result = convert(**t5x, output=tmp_path / "m", live_proportion="1/2", rerank_proportion=0)
    model = load_model(result.output)
    assert model.config == result.config
    assert (model.config.memory_layers, model.config.live_a_layers, model.config.live_b_layers) == (1, 0, 1)
    assert ReaderConfig.from_model(model.config).decoder.head_scale == 1.0
    tokens = model.passage_tokens([("Paris", "The capital of France.")])
    assert tokens[0][-1] == model.tokenizer.eos_id
    assert model.tokenizer.decode(tokens[0]) == "title: Paris context: The capital of France."
    (batch,) = MemoryEncoder(model).encode(tokens)
    assert np.isfinite(batch.outputs.astype(np.float32)).all()
    card = (result.output / "README.md").read_text()
    assert "T5X checkpoint" in card
    assert "| memory encoder (offline) | 1 of 2 |" in card
    assert any("1 memory, 0 live A, 1 live B" in line for line in result.lines())


def test_minilm_as_a_hugging_face_directory(minilm_model: LoadedModel, tmp_path: Path) -> None:
    """A BERT directory converts; its lower layers have the fingerprint of the built-in's."""
    import zipfile

    import glimmer.encoders.builtin_models as builtin

    source = tmp_path / "bert"
    found = builtin.find_minilm()
    with zipfile.ZipFile(found) as archive:
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            archive.extract(name, source)
    result = convert(source=source, output=tmp_path / "m", live_proportion="1/3", rerank_proportion="1/2")
    assert load_model(result.output).fingerprint == minilm_model.fingerprint
    assert result.config.decoder is None


@pytest.mark.parametrize(
    ("layers", "live", "rerank", "split"),
    [
        (12, "1/3", "1/4", (8, 1, 3)),
        (24, "1/3", "1/4", (16, 2, 6)),
        (6, "1/3", "1/2", (4, 1, 1)),
        (12, "1", "1/4", (0, 3, 9)),
        (12, "1/3", "0", (8, 0, 4)),
        (12, "1/3", "1", (8, 4, 0)),
        (8, "1/3", "1/2", (5, 2, 1)),
    ],
)
def test_layers_are_shared_out_as_in_the_paper(
    layers: int, live: str, rerank: str, split: tuple[int, int, int]
) -> None:
    assert split_layers(layers, Fraction(live), Fraction(rerank)) == split


@pytest.mark.parametrize(
    ("layers", "live", "rerank", "message"),
    [
        (12, "0", "1/4", "no live layers"),
        (12, "1/100", "1/4", "live encoder"),
        (2, "1/2", "1/4", "live encoder A"),
        (2, "1/2", "3/4", "live encoder B"),
        (2, "9/10", "1/2", "memory encoder"),
    ],
)
def test_a_part_left_empty_by_rounding_is_refused(layers: int, live: str, rerank: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_layers(layers, Fraction(live), Fraction(rerank))
    split = split_layers(layers, Fraction(live), Fraction(rerank), allow_empty_live=True)
    assert sum(split) == layers


def test_rounding_is_reported(t5x: dict[str, Any], tmp_path: Path) -> None:
    result = convert(**t5x, output=tmp_path / "m", live_proportion=0.6, rerank_proportion=0)
    assert result.live_proportion == 0.5
    assert "live proportion α: asked for 3/5, rounded to whole layers it is 0.5" in result.lines()


@pytest.mark.parametrize("value", ["a third", "1/0", -0.1, "3/2", float("nan")])
def test_a_proportion_out_of_range_is_refused(t5x: dict[str, Any], tmp_path: Path, value: float | str) -> None:
    with pytest.raises(UsageError, match="live proportion"):
        convert(**t5x, output=tmp_path / "m", live_proportion=value)
    assert not (tmp_path / "m").exists()


def test_failure_leaves_nothing_behind(t5x: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(t5x["source"].read_bytes()[:1000])
    output = tmp_path / "out" / "m"
    with pytest.raises(ModelError, match="broken"):
        convert(source=tmp_path / "broken", tokenizer=t5x["tokenizer"], output=output)
    with pytest.raises(ModelError, match="passage_template"):
        convert(**t5x, output=output, live_proportion=1, rerank_proportion="1/2", passage_template="{nope}")
    assert not (tmp_path / "out").exists()


def test_an_occupied_output_is_refused_before_reading(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        convert(source=tmp_path / "absent", output=tmp_path)


def test_the_window_is_bounded_by_the_positions(minilm_model: LoadedModel, tmp_path: Path) -> None:
    source = tmp_path / "bert"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="hidden_size is missing"):
        convert(source=source, output=tmp_path / "m")
    shutil.rmtree(source)
    with pytest.raises(UsageError, match="no such"):
        convert(source=source, output=tmp_path / "m", window=1024)


def test_a_hub_name_without_the_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"glimmer-memory\[hub\]"):
        convert(source="hf:google/t5-v1_1-base", output=tmp_path / "m")
