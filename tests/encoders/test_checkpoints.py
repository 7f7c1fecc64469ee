"""Checkpoints in: Hugging Face directories, PyTorch archives without running their code, T5X msgpack trees."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import sentencepiece

from glimmer import ModelError, UsageError
from glimmer.encoders.families.t5 import T5Config
from glimmer.encoders.importers import import_checkpoint
from glimmer.encoders.t5x_checkpoint import read_t5x
from glimmer.encoders.torch_archive import read_torch
from glimmer.encoders.weights import in_memory, write_safetensors
from glimmer.reader.config import DecoderConfig

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def spiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of a dozen pieces, with T5's special ids."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c d e f g h"] * 10),
        model_writer=made,
        vocab_size=12,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("pieces") / "spiece.model"
    path.write_bytes(made.getvalue())
    return path


def _t5_directory(path: Path, weights: ModuleType, spiece: Path, edit: Edit | None = None) -> Path:
    """A tiny T5 v1.1 as Hugging Face lays it out, without weights."""
    path.mkdir()
    config = dict(weights.TINY_T5_CONFIG)
    if edit is not None:
        edit(config)
    (path / "config.json").write_text(json.dumps(config))
    (path / "spiece.model").write_bytes(spiece.read_bytes())
    return path


def _drawn(weights: ModuleType) -> dict[str, np.ndarray]:
    return {name: weights.draw(name, shape) for name, shape in weights.TINY_T5.items()}


@pytest.fixture
def t5_directory(tmp_path: Path, weights: ModuleType, spiece: Path) -> Path:
    directory = _t5_directory(tmp_path / "t5", weights, spiece)
    write_safetensors(directory / "model.safetensors", in_memory(_drawn(weights)))
    return directory


def test_a_t5_directory_gives_encoder_and_decoder(t5_directory: Path, weights: ModuleType) -> None:
    imported = import_checkpoint(t5_directory)
    assert isinstance(imported.encoder, T5Config)
    assert imported.encoder.gated
    assert (imported.encoder.d_kv, imported.encoder.num_heads) == (3, 2)
    assert imported.decoder == {
        "vocab_size": 16,
        "d_model": 8,
        "d_ff": 16,
        "num_heads": 2,
        "d_kv": 3,
        "num_layers": 1,
        "layer_norm_eps": 1e-6,
        "relative_buckets": 32,
        "relative_max_distance": 128,
        "gated": True,
        "shared_embedding": True,
        "tied_head": False,
        "kv_heads": 2,
        "cross_every": 1,
        "head_scale": 1.0,
        "start_id": 0,
        "eos_id": 1,
        "pad_id": 0,
    }
    for ours, theirs, transposed in (
        ("encoder.embedding", "shared.weight", False),
        ("encoder.relative_bias", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", False),
        ("encoder.layers.0.attention.o.kernel", "encoder.block.0.layer.0.SelfAttention.o.weight", True),
        ("encoder.layers.0.mlp.wi_1.kernel", "encoder.block.0.layer.1.DenseReluDense.wi_1.weight", True),
        ("decoder.layers.0.self_norm.scale", "decoder.block.0.layer.0.layer_norm.weight", False),
        ("decoder.layers.0.self_attention.q.kernel", "decoder.block.0.layer.0.SelfAttention.q.weight", True),
        ("decoder.layers.0.cross_norm.scale", "decoder.block.0.layer.1.layer_norm.weight", False),
        ("decoder.layers.0.cross_attention.k.kernel", "decoder.block.0.layer.1.EncDecAttention.k.weight", True),
        ("decoder.layers.0.mlp.wo.kernel", "decoder.block.0.layer.2.DenseReluDense.wo.weight", True),
        ("decoder.lm_head.kernel", "lm_head.weight", True),
    ):
        drawn = weights.draw(theirs, weights.TINY_T5[theirs])
        np.testing.assert_array_equal(imported.tensors[ours], drawn.T if transposed else drawn, err_msg=ours)
    assert len(imported.tensors) == len(weights.TINY_T5)


def test_a_tied_encoder_only_or_ungated_t5_is_understood(tmp_path: Path, weights: ModuleType, spiece: Path) -> None:
    state = _drawn(weights)
    tied = _t5_directory(tmp_path / "tied", weights, spiece, lambda c: c.pop("tie_word_embeddings"))
    write_safetensors(tied / "model.safetensors", in_memory(state))
    imported = import_checkpoint(tied)
    assert imported.decoder is not None
    assert imported.decoder["tied_head"]
    assert DecoderConfig.from_json(imported.decoder).head_scale == 8**-0.5
    assert "decoder.lm_head.kernel" not in imported.tensors

    alone = _t5_directory(tmp_path / "alone", weights, spiece)
    encoder = {name: value for name, value in state.items() if name.startswith(("encoder", "shared"))}
    write_safetensors(alone / "model.safetensors", in_memory(encoder))
    assert import_checkpoint(alone).decoder is None

    plain = _t5_directory(tmp_path / "plain", weights, spiece, lambda c: c.update(feed_forward_proj="relu"))
    ungated = {name.replace("wi_0", "wi"): value for name, value in state.items() if "wi_1" not in name}
    write_safetensors(plain / "model.safetensors", in_memory(ungated))
    found = import_checkpoint(plain).encoder
    assert isinstance(found, T5Config)
    assert not found.gated


def test_a_checkpoint_in_parts_is_joined_by_its_index(tmp_path: Path, weights: ModuleType, spiece: Path) -> None:
    directory = _t5_directory(tmp_path / "parts", weights, spiece)
    state = _drawn(weights)
    files = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(state)}
    for file in set(files.values()):
        part = {name: value for name, value in state.items() if files[name] == file}
        write_safetensors(directory / file, in_memory(part))
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert len(import_checkpoint(directory).tensors) == len(state)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret"}}))
    with pytest.raises(ModelError, match="outside"):
        import_checkpoint(directory)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(feed_forward_proj="gated-silu"), "feed_forward_proj must be one of"),
        (lambda c: c.update(d_model=16), r"expected \[16, 16\]"),
        (lambda c: c.update(num_layers=2), "num_layers|missing"),
        (lambda c: c.update(num_decoder_layers="two"), "num_decoder_layers"),
        (lambda c: c.pop("vocab_size"), "vocab_size is missing"),
        (lambda c: c.update(model_type="gpt2"), "model_type is 'gpt2'"),
        (lambda c: c.update(relative_attention_num_buckets=3), "relative_buckets"),
    ],
)
def test_an_unsupported_or_wrong_config_is_refused(t5_directory: Path, edit: Edit, message: str) -> None:
    config = json.loads((t5_directory / "config.json").read_text())
    edit(config)
    (t5_directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        import_checkpoint(t5_directory)


def test_what_is_missing_is_named(t5_directory: Path) -> None:
    (t5_directory / "spiece.model").unlink()
    with pytest.raises(ModelError, match=r"spiece\.model"):
        import_checkpoint(t5_directory)
    (t5_directory / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        import_checkpoint(t5_directory)
    with pytest.raises(UsageError, match="no such"):
        import_checkpoint(t5_directory / "absent")


def test_pytorch_weights_are_read_without_pytorch(goldens: Path, weights: ModuleType) -> None:
    """A file that torch.save wrote: views, parameters, shared storage, half precisions."""
    tensors = read_torch(goldens / "tiny_t5.bin")
    assert set(tensors) == set(weights.TINY_T5) | {"encoder.embed_tokens.weight"}
    for name, shape in weights.TINY_T5.items():
        drawn: np.ndarray = weights.draw(name, shape)
        if name == "encoder.block.0.layer.0.SelfAttention.v.weight":
            drawn = drawn.astype(ml_dtypes.bfloat16)
        if name == "lm_head.weight":
            drawn = drawn.astype(np.float16)
        assert tensors[name].dtype == drawn.dtype
        np.testing.assert_array_equal(tensors[name], drawn, err_msg=name)


def test_a_pytorch_directory_equals_its_safetensors(
    tmp_path: Path, goldens: Path, weights: ModuleType, spiece: Path, t5_directory: Path
) -> None:
    directory = _t5_directory(tmp_path / "torch", weights, spiece)
    (directory / "pytorch_model.bin").write_bytes((goldens / "tiny_t5.bin").read_bytes())
    ours, reference = import_checkpoint(directory), import_checkpoint(t5_directory)
    assert sorted(ours.tensors) == sorted(reference.tensors)
    np.testing.assert_array_equal(
        ours.tensors["encoder.layers.0.attention.q.kernel"], reference.tensors["encoder.layers.0.attention.q.kernel"]
    )


class _Payload:
    """What a hostile file would bring: a call to make while it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def _archive(path: Path, state: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", state)
    return path


def test_code_in_a_pytorch_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = _archive(tmp_path / "evil.bin", pickle.dumps({"weight": _Payload(marker)}, protocol=2))
    with pytest.raises(ModelError, match=r"asks to import"):
        read_torch(path)
    assert not marker.exists()


@pytest.mark.parametrize("size", [0, 10, 500, -400, -40])
def test_a_damaged_pytorch_file_is_a_model_error(tmp_path: Path, goldens: Path, size: int) -> None:
    data = (goldens / "tiny_t5.bin").read_bytes()
    (tmp_path / "cut.bin").write_bytes(data[:size])
    with pytest.raises(ModelError, match=r"cut\.bin"):
        read_torch(tmp_path / "cut.bin")


def test_random_damage_never_escapes_as_another_error(tmp_path: Path, goldens: Path) -> None:
    """300 files with a few flipped bytes: each is read whole or refused as a ModelError."""
    data, generator = (goldens / "tiny_t5.bin").read_bytes(), np.random.default_rng(0)
    path = tmp_path / "flipped.bin"
    for _ in range(300):
        flipped = bytearray(data)
        for place in generator.integers(0, len(data), 4):
            flipped[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(flipped)
        try:
            tensors = read_torch(path)
            for name in tensors:
                tensors[name].sum()
        except ModelError:
            continue


@pytest.mark.parametrize("state", [pickle.dumps([1, 2]), b"garbage", b"", pickle.dumps({"a": 1})[:-3]])
def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path: Path, state: bytes) -> None:
    with pytest.raises(ModelError):
        read_torch(_archive(tmp_path / "odd.bin", state))


@pytest.fixture(scope="module")
def t5x_file(t5_files: Path) -> Path:
    return t5_files / "test_t5_tiny.checkpoint_0"


def test_a_real_t5x_checkpoint_is_imported(t5x_file: Path) -> None:
    imported = import_checkpoint(t5x_file, tokenizer=t5x_file.parent / "spiece.model")
    encoder = imported.encoder
    assert (encoder.num_layers, encoder.d_model, encoder.num_heads, encoder.d_kv, encoder.d_ff) == (2, 8, 4, 3, 16)
    assert imported.decoder is not None
    assert not imported.decoder["tied_head"]
    assert imported.decoder["num_layers"] == 2
    flat = read_t5x(t5x_file)
    tensors = imported.tensors
    np.testing.assert_array_equal(tensors["encoder.relative_bias"], flat["encoder/relpos_bias/rel_embedding"].T)
    np.testing.assert_array_equal(
        tensors["decoder.layers.1.cross_attention.o.kernel"],
        flat["decoder/layers_1/encoder_decoder_attention/out/kernel"],
    )
    assert tensors["decoder.lm_head.kernel"].shape == (8, 32128)


def test_a_t5x_file_needs_its_tokenizer(t5x_file: Path) -> None:
    with pytest.raises(UsageError, match="--tokenizer"):
        import_checkpoint(t5x_file)


def _write_tree(path: Path, flat: dict[str, np.ndarray]) -> Path:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = np.asarray(value)
    path.write_bytes(flax.serialization.msgpack_serialize({"version": 3, "optimizer": {"target": tree}}))
    return path


def _equal_import(path: Path, reference: Path) -> None:
    tokenizer = reference.parent / "spiece.model"
    ours, theirs = (import_checkpoint(each, tokenizer=tokenizer) for each in (path, reference))
    assert ours.encoder == theirs.encoder
    assert ours.decoder == theirs.decoder
    assert sorted(ours.tensors) == sorted(theirs.tensors)
    for name in theirs.tensors:
        np.testing.assert_array_equal(ours.tensors[name], theirs.tensors[name], err_msg=name)


def test_large_arrays_in_chunks_are_joined(t5x_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 10_000)
    _equal_import(_write_tree(tmp_path / "chunked", read_t5x(t5x_file)), t5x_file)


def test_scanned_layers_are_taken_apart(t5x_file: Path, tmp_path: Path) -> None:
    """`scan_layers` stores one array for all layers, with the layers on axis 1."""
    flat, scanned = read_t5x(t5x_file), {}
    for name, value in flat.items():
        side, _, rest = name.partition("/")
        if rest.startswith("layers_0/"):
            inside = rest.removeprefix("layers_0/")
            scanned[f"{side}/{side}/{inside}"] = np.stack([value, flat[f"{side}/layers_1/{inside}"]], axis=1)
        elif not rest.startswith("layers_"):
            scanned[name] = value
    _equal_import(_write_tree(tmp_path / "scanned", scanned), t5x_file)


def test_kernels_with_separate_head_axes_are_flattened(t5x_file: Path, tmp_path: Path) -> None:
    flat = dict(read_t5x(t5x_file))
    for name, value in flat.items():
        if "attention/" in name and name.endswith("/kernel"):
            flat[name] = value.reshape((4, 3, 8) if "/out/" in name else (8, 4, 3))
    _equal_import(_write_tree(tmp_path / "heads", flat), t5x_file)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other tree", "array", "kernel", "missing"])
def test_a_damaged_t5x_checkpoint_is_a_model_error(t5x_file: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bad"
    flat = dict(read_t5x(t5x_file))
    if damage == "kernel":
        flat["encoder/layers_1/attention/out/kernel"] = np.zeros((12, 7), np.float32)
        _write_tree(path, flat)
    elif damage == "missing":
        del flat["encoder/relpos_bias/rel_embedding"]
        _write_tree(path, flat)
    else:
        data = t5x_file.read_bytes()
        path.write_bytes(
            {
                "empty": b"",
                "cut": data[: len(data) // 2],
                "text": b"hello",
                "other tree": flax.serialization.msgpack_serialize({"a": np.zeros(3)}),
                "array": b"\xc7\x05\x01\x93\x91\x03\xa3f4",
            }[damage]
        )
    with pytest.raises(ModelError, match="bad"):
        import_checkpoint(path, tokenizer=t5x_file.parent / "spiece.model")
