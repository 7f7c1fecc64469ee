"""NaN and infinity never become weights: no setting is one, and no tensor that holds one is saved."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glimmer import GlimmerError, ModelError, UsageError
from glimmer.encoders.model_config import read_model_config
from glimmer.encoders.model_directory import save_model
from glimmer.encoders.models import load_model
from glimmer.encoders.strict_json import read_json
from glimmer.encoders.weights import in_memory, read_safetensors, write_safetensors
from glimmer.pipelines.encode import encode
from glimmer.pipelines.train import train
from glimmer.reader.config import ReaderConfig, RerankerConfig
from glimmer.reader.training.checkpoints import save_weights
from glimmer.reader.training.losses import LossSettings
from glimmer.reader.training.settings import DataConfig, OptimiserConfig, TaskConfig, TrainConfig
from glimmer.storage.memory import Memory

NOT_FINITE = ["nan", "inf", "-inf", "1e999", "+nan"]
BASE = """
model = "m"
memory = "y"
run = "r"
output = "o"
steps = 3
"""
TASK = '[[tasks]]\nname = "one"\nfile = "one.jsonl"\n'


def float_keys() -> list[tuple[str, str]]:
    """(section, key) of every floating number that a training file can hold, as the dataclasses say."""
    sections: dict[str, Any] = {
        "": TrainConfig,
        "data": DataConfig,
        "losses": LossSettings,
        "optimiser": OptimiserConfig,
        "reranker": RerankerConfig,
        "tasks": TaskConfig,
    }
    return [
        (section, field.name)
        for section, kind in sections.items()
        for field in dataclasses.fields(kind)
        if field.type in ("float", float)
    ]


def toml(section: str, key: str, value: str) -> str:
    line = f"{key} = {value}\n"
    if not section:
        return BASE + line + TASK
    if section == "tasks":
        return BASE + TASK + line
    return BASE + TASK + f"[{section}]\n" + line


def test_every_float_of_a_training_file_is_known_to_this_test() -> None:
    assert len(float_keys()) >= 12
    assert ("optimiser", "learning_rate") in float_keys()


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize(("section", "key"), float_keys(), ids=lambda part: part or "top")
def test_no_number_of_a_training_file_is_nan_or_infinite(section: str, key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(toml(section, key, value))
    with pytest.raises(UsageError, match=key) as caught:
        TrainConfig.from_toml(path)
    assert "finite" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 1e-40])
@pytest.mark.parametrize(("section", "key"), float_keys(), ids=lambda part: part or "top")
def test_a_configuration_made_in_python_is_held_to_the_same(section: str, key: str, value: float) -> None:
    def make() -> TrainConfig:
        kinds: dict[str, Any] = {"data": DataConfig, "losses": LossSettings, "optimiser": OptimiserConfig}
        given: dict[str, Any] = {"model": "m", "memory": "y", "run": "r", "output": "o", "steps": 1}
        task: dict[str, Any] = {"name": "one", "file": "f"}
        if section in ("", "tasks"):
            (task if section else given)[key] = value
        else:
            given[section] = (kinds | {"reranker": RerankerConfig})[section](**{key: value})
        return TrainConfig(tasks=(TaskConfig(**task),), **given)

    with pytest.raises((UsageError, ModelError)):
        make()


@pytest.mark.parametrize(
    "line",
    [
        "steps = 99999999999",
        "seed = 4294967296",
        "seed = " + "9" * 5000,
        "live_scale = " + "9" * 400,
        "x = " + "[" * 5000,
    ],
)
def test_whole_numbers_out_of_range_and_files_without_sense_are_one_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    text = BASE.replace("steps = 3\n", "") if line.startswith("steps") else BASE
    path.write_text(text + line + "\n" + TASK)
    with pytest.raises(UsageError) as caught:
        TrainConfig.from_toml(path)
    assert "\n" not in str(caught.value)


# Weights.


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("finite") / "model", memory_layers=1, live_a=1, live_b=1, window=32)


def spoilt(model: Path, place: Path, name: str, value: float) -> Path:
    """A copy of `model` with one number of one tensor exchanged."""
    shutil.copytree(model, place)
    arrays = {key: np.array(array) for key, array in read_safetensors(place / "model.safetensors").items()}
    arrays[name].reshape(-1)[-1] = value
    write_safetensors(place / "model.safetensors", in_memory(arrays))
    return place


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_with_a_number_that_is_not_finite_is_not_saved(
    value: float, dtype: Any, model: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(read_model_config(model), dtype=dtype)
    arrays = {name: np.array(array) for name, array in load_model(model).tensors.items()}
    arrays["encoder.embedding"][3, 2] = value
    with pytest.raises(ModelError, match=r"tensor encoder\.embedding holds 1 of .* not finite; do this"):
        save_model(tmp_path / "out", config, arrays, {}, "", finite_or="do this")
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_overflows_in_the_stored_type_is_found(model: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(read_model_config(model), dtype="bfloat16")
    arrays = {name: np.array(array) for name, array in load_model(model).tensors.items()}
    arrays["encoder.embedding"][3, 2] = np.finfo(np.float32).max
    with pytest.raises(ModelError, match="not finite"):
        save_model(tmp_path / "out", config, arrays, {}, "")


def test_weights_that_are_not_finite_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tensor a\.b .* training has diverged: lower"):
        save_weights(tmp_path / "best" / "w.safetensors", {"a.b": np.array([1.0, np.nan], np.float32)})
    assert not (tmp_path / "best" / "w.safetensors").exists()


def test_training_refuses_a_model_that_holds_nan_before_the_first_step(
    model: Path, tiny_corpus: Callable[..., Path], tiny_gold: Callable[..., Path], tmp_path: Path
) -> None:
    encode(sources=[str(tiny_corpus(tmp_path / "c.jsonl", 6))], memory=tmp_path / "memory", model=str(model))
    tiny_gold(Memory.open(tmp_path / "memory"), tmp_path / "one.jsonl", 0, 2)
    bad = spoilt(model, tmp_path / "bad", "decoder.final_norm.scale", np.nan)
    config = TrainConfig(
        model=str(bad),
        memory=str(tmp_path / "memory"),
        run=str(tmp_path / "run"),
        output=str(tmp_path / "out"),
        steps=1,
        tasks=(TaskConfig(name="one", file=str(tmp_path / "one.jsonl")),),
        data=DataConfig(candidates=2, select=1),
    )
    with pytest.raises(ModelError, match=r"decoder\.final_norm\.scale holds 1 of .* not finite"):
        train(config=config)
    assert not (tmp_path / "out").exists()


# JSON.


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "9" * 5000, "true", '"1"', "null", "[1]"]
)
def test_no_number_of_a_model_configuration_is_out_of_range(value: str, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    whole = json.loads((model / "config.json").read_text())
    for section, keys in (("encoder", whole["encoder"]), ("decoder", whole["decoder"]), ("", whole)):
        for key, old in keys.items():
            if isinstance(old, (int, float)) and not isinstance(old, bool):
                bent = json.loads(json.dumps(whole))
                (bent[section] if section else bent)[key] = "HERE"
                (tmp_path / "m" / "config.json").write_text(json.dumps(bent).replace('"HERE"', value))
                with pytest.raises(GlimmerError) as caught:
                    ReaderConfig.from_model(read_model_config(tmp_path / "m"))
                assert len(str(caught.value)) < 700, f"{section}.{key}"
                assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff", b"[" * 100_000, b'{"a": 1, "a": 2}', b"", b"{" + b'"a":{' * 3000])
def test_json_without_sense_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_json(tmp_path / "config.json")
    assert "\n" not in str(caught.value)


def test_many_keys_take_no_time(tmp_path: Path) -> None:
    """Looking for repeated keys must not compare each with each."""
    (tmp_path / "config.json").write_text(json.dumps({str(number): 0 for number in range(200_000)}))
    start = time.monotonic()
    assert len(read_json(tmp_path / "config.json")) == 200_000  # type: ignore[arg-type]
    assert time.monotonic() - start < 20, "each key with each other would take minutes"
