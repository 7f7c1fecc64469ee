"""Files of a model that somebody sent: plain files of a bounded size, and every number in them in its range."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from glimmer import GlimmerError, ModelError
from glimmer.encoders.importers import import_checkpoint
from glimmer.encoders.models import load_model
from glimmer.encoders.t5x_checkpoint import read_t5x
from glimmer.encoders.tokenizer_json import check_tokenizer_json
from glimmer.encoders.tokenizers import SentencePieceTokenizer, WordPieceTokenizer
from glimmer.encoders.weights import read_safetensors, read_sharded


def said(error: pytest.ExceptionInfo[GlimmerError], path: Path) -> str:
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 700 + len(str(path))
    return text


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", with_decoder=False)


# Plain files only.


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["fifo", "zero", "directory", "dangling"])
@pytest.mark.timeout(30)
def test_a_model_is_made_of_plain_files(name: str, kind: str, model: Path, tmp_path: Path) -> None:
    directory = tmp_path / "m"
    shutil.copytree(model, directory)
    (directory / name).unlink()
    if kind == "fifo":
        os.mkfifo(directory / name)
    elif kind == "directory":
        (directory / name).mkdir()
    else:
        (directory / name).symlink_to("/dev/zero" if kind == "zero" else directory / "nowhere")
    with pytest.raises(ModelError) as caught:
        load_model(directory)
    assert name.split(".")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_to_a_plain_file_of_the_model_is_read(model: Path, tmp_path: Path) -> None:
    """As the hub's cache has them."""
    directory = tmp_path / "m"
    shutil.copytree(model, directory)
    (directory / "model.safetensors").rename(directory / "blob")
    (directory / "model.safetensors").symlink_to("blob")
    assert load_model(directory).fingerprint == load_model(model).fingerprint


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_that_is_far_too_large_is_not_read(name: str, model: Path, tmp_path: Path) -> None:
    directory = tmp_path / "m"
    shutil.copytree(model, directory)
    os.truncate(directory / name, 1 << 40)
    with pytest.raises(ModelError, match="more than such a file ever has"):
        load_model(directory)


# Safetensors.


def safetensors(path: Path, header: str, data: int = 64) -> Path:
    content = header.encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(data))
    return path


def entry(shape: str = "[4]", offsets: str = "[0, 16]", dtype: str = '"F32"') -> str:
    return f'{{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}'


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(f'{{"a": {entry("[1e400]")}}}', id="an infinite extent"),
        pytest.param(f'{{"a": {entry("[NaN]")}}}', id="an extent that is no number"),
        pytest.param(f'{{"a": {entry("[4.0]")}}}', id="a fraction"),
        pytest.param(f'{{"a": {entry(chr(34) + "4" + chr(34))}}}', id="a text as shape"),
        pytest.param(f'{{"a": {entry("[true, 4]")}}}', id="a truth as extent"),
        pytest.param(f'{{"a": {entry(f"[{10**400}, 0]", "[0, 0]")}}}', id="400 digits times nothing"),
        pytest.param(f'{{"a": {entry("[" + "9" * 5000 + "]")}}}', id="5000 digits"),
        pytest.param(f'{{"a": {entry("[-2, -2]")}}}', id="negative extents"),
        pytest.param(f'{{"a": {entry("[4]", "[-16, 0]")}}}', id="a negative offset"),
        pytest.param(f'{{"a": {entry("[4]", "[0, 1e999]")}}}', id="an infinite offset"),
        pytest.param(f'{{"a": {entry("[4]", "[16, 0]")}}}', id="offsets the wrong way round"),
        pytest.param(f'{{"a": {entry("[4]", "[56, 72]")}}}', id="beyond the end"),
        pytest.param(f'{{"a": {entry(str([1] * 100), "[0, 4]")}}}', id="a hundred dimensions"),
        pytest.param(f'{{"a": {entry()}, "a": {entry()}}}', id="a name twice"),
        pytest.param(f'{{"a": {entry()}, "b": {entry("[4]", "[12, 28]")}}}', id="shared bytes"),
        pytest.param(f'{{"a": {entry()}, "b": {entry()}}}', id="the same bytes"),
        pytest.param('{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], "dtype": "I8"}}', id="a key twice"),
        pytest.param(f'{{"a": {entry(dtype="[]")}}}', id="a list as type"),
        pytest.param("[" * 50_000, id="nested"),
        pytest.param('"text"', id="no object"),
    ],
)
def test_no_number_of_a_safetensors_header_is_believed(header: str, tmp_path: Path) -> None:
    path = safetensors(tmp_path / "w.safetensors", header)
    with pytest.raises(ModelError) as caught:
        read_safetensors(path)
    said(caught, path)


def test_a_header_that_claims_the_whole_address_space_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"\xff" * 8)
    with pytest.raises(ModelError, match="cut short"):
        read_safetensors(path)
    with open(path, "r+b") as file:
        file.write((1 << 30).to_bytes(8, "little"))
    os.truncate(path, 1 << 31)
    with pytest.raises(ModelError, match="header of"):
        read_safetensors(path)


@pytest.mark.parametrize(
    "content",
    [
        *("{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../w"}}', "nul"),
        *('{"weight_map": {"a": ["x"]}}', '{"weight_map": {"a": "x", "a": "y"}}'),
        *('{"weight_map": ' + "9" * 5000 + "}", "[" * 50_000),
    ],
)
def test_an_index_of_parts_without_sense_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ModelError) as caught:
        read_sharded(tmp_path, "index.json", read_safetensors)
    assert "\n" not in str(caught.value)


# Tokenizers.

CHARSMAP = "/////w=="
"""Base64 of 0xffffffff: a trie of 4 GB, by its announced size."""


def put(place: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(definition: dict[str, Any]) -> None:
        *way, last = place.split("/")
        at: Any = definition
        for key in way:
            at = at[int(key)] if isinstance(at, list) else at[key]
        at[last] = value

    return change


CLS = {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}
TEMPLATE = {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {"[CLS]": CLS}}
HOSTILE_TOKENIZERS = {
    "a trie of 4 GB": put("normalizer", {"type": "Precompiled", "precompiled_charsmap": CHARSMAP}),
    "a trie within a sequence": put(
        "normalizer",
        {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8AAAAA"}]},
    ),
    "a regular expression": put("normalizer", {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}),
    "pieces of no characters": put("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    "a decoder that cuts beyond": put("decoder", {"type": "Strip", "content": "a", "start": 1 << 62, "stop": 1 << 62}),
    "a special token that is not there": put(
        "post_processor", TEMPLATE | {"single": [{"SpecialToken": {"id": "[SEP]", "type_id": 0}}]}
    ),
    "a hundred thousand special tokens": put(
        "post_processor", TEMPLATE | {"single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}] * 100_000}
    ),
    "special tokens of huge ids": put(
        "post_processor", TEMPLATE | {"special_tokens": {"[CLS]": CLS | {"ids": [(1 << 32) - 1]}}}
    ),
    "a token of the largest id": put("model/vocab/x", (1 << 32) - 1),
    "a token of a negative id": put("model/vocab/x", -1),
    "a token of half an id": put("model/vocab/x", 1.5),
    "a token without an id": put("model/vocab/x", None),
    "words of any length": put("model/max_input_chars_per_word", 1 << 63),
    "another model": put("model", {"type": "Unigram", "unk_id": 0, "vocab": []}),
    "no model": put("model", None),
    "an added token of the largest id": put("added_tokens/0/id", (1 << 32) - 1),
    "an empty added token": put("added_tokens/0/content", ""),
    "an added token of a megabyte": put("added_tokens/0/content", "a" * (1 << 20)),
}


@pytest.mark.parametrize("name", HOSTILE_TOKENIZERS)
def test_a_tokenizer_file_cannot_panic_or_allot(name: str, model: Path, tmp_path: Path) -> None:
    definition = json.loads((model / "tokenizer.json").read_text())
    HOSTILE_TOKENIZERS[name](definition)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition))
    with pytest.raises(ModelError) as caught:
        WordPieceTokenizer(path)
    said(caught, path)


def test_a_panic_of_the_library_is_an_error_like_others(model: Path, tmp_path: Path) -> None:
    """What the check before does not know: an error all the same, and not a BaseException."""
    tokenizer = WordPieceTokenizer(model / "tokenizer.json")
    definition = json.loads((model / "tokenizer.json").read_text())
    definition["pre_tokenizer"] = {"type": "FixedLength", "length": 0}
    import tokenizers

    tokenizer._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(definition))
    tokenizer._cache = None  # as this pre-tokenizer has none
    for use in (tokenizer.encode, tokenizer.encode_plain):
        with pytest.raises(ModelError, match="fails over a text"):
            use(["some text", "more"])
    with pytest.raises(ModelError, match="fails over a text"):
        tokenizer.encode_with_offsets("some text")


def test_ids_beyond_the_embedding_are_found_though_the_vocabulary_is_short(model: Path, tmp_path: Path) -> None:
    """A few tokens with large ids would be looked up beyond the table's last row."""
    directory = tmp_path / "m"
    shutil.copytree(model, directory)
    definition = json.loads((directory / "tokenizer.json").read_text())
    definition["model"]["vocab"]["x"] = 5_000_000
    (directory / "tokenizer.json").write_text(json.dumps(definition))
    assert check_tokenizer_json(definition) == 5_000_001
    with pytest.raises(ModelError, match="5000001 entries, the embedding"):
        load_model(directory)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\n\xff\xff\xff\xff\x0f" + bytes(50)])
def test_a_sentencepiece_model_without_sense_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "spiece.model"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        SentencePieceTokenizer(path)
    said(caught, path)


# T5X checkpoints.


def extension(shape: Any, dtype: Any, data: Any, code: int = 1) -> msgpack.ExtType:
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


def t5x(path: Path, embedding: Any, **more: Any) -> Path:
    tree = {"target": {"token_embedder": {"embedding": embedding}, **more}}
    path.write_bytes(msgpack.packb(tree, use_bin_type=True))
    return path


def test_what_these_tests_build_is_read_when_it_is_sound(tmp_path: Path) -> None:
    path = t5x(tmp_path / "checkpoint", extension((2, 2), "float32", np.arange(4, dtype="<f4").tobytes()))
    assert read_t5x(path)["token_embedder/embedding"].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    "embedding",
    [
        pytest.param(extension((1 << 40, 1 << 40), "float32", bytes(16)), id="a huge shape"),
        pytest.param(extension((1 << 62, 0), "float32", b""), id="a huge shape of nothing"),
        pytest.param(extension((-2, -2), "float32", bytes(16)), id="negative"),
        pytest.param(extension((2.0, 2), "float32", bytes(16)), id="a fraction"),
        pytest.param(extension((2, 2), "O", bytes(32)), id="objects"),
        pytest.param(extension((1,), "S1000000000", b""), id="long texts"),
        pytest.param(extension((2, 2), "f4,f4", bytes(32)), id="records"),
        pytest.param(extension((2, 2), "float32", 16), id="a number as data"),
        pytest.param(extension((1,) * 65, "float32", bytes(4)), id="many dimensions"),
        pytest.param(extension(5, "float32", bytes(4)), id="a number as shape"),
        pytest.param(extension((2, 2), ["float32"], bytes(16)), id="a list as type"),
        pytest.param(msgpack.ExtType(1, b""), id="an empty extension"),
        pytest.param(msgpack.ExtType(1, b"\xdd\xff\xff\xff\xff"), id="a list of 4 G elements in an extension"),
        pytest.param(msgpack.ExtType(77, b"x"), id="an unknown extension"),
        pytest.param({"__msgpack_chunked_array__": True, "shape": [1 << 50], "chunks": []}, id="no chunks"),
        pytest.param({"__msgpack_chunked_array__": True, "shape": 3, "chunks": {"0": 1 << 60}}, id="numbers as chunks"),
        pytest.param({"__msgpack_chunked_array__": True}, id="chunks that are not there"),
    ],
)
def test_no_number_of_a_t5x_checkpoint_is_believed(embedding: Any, tmp_path: Path) -> None:
    path = t5x(tmp_path / "checkpoint", embedding)
    with pytest.raises(ModelError) as caught:
        read_t5x(path)
    said(caught, path)


def test_layers_that_are_numbered_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"")
    kernel = extension((4, 4), "float32", bytes(64))
    scanned = extension((0, 1 << 40), "float32", b"")
    for name, encoder in (
        ("scanned", {"encoder": {"layers": {"kernel": scanned}}, "relpos_bias": {"rel_embedding": kernel}}),
        ("numbered", {"layers_" + "9" * 5000: {"kernel": kernel}, "layers_²": {"kernel": kernel}}),
    ):
        path = t5x(tmp_path / name, kernel, encoder=encoder)
        with pytest.raises(ModelError) as caught:
            import_checkpoint(path, tokenizer=tmp_path / "spiece.model")
        said(caught, path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xdd\xff\xff\xff\xff" * 50, id="lists of 4 G elements"),
        pytest.param(b"\xdf\xff\xff\xff\xff" * 50, id="maps of 4 G elements"),
        pytest.param((b"\xdd" + struct.pack(">I", 1 << 22)) * 500 + bytes(1 << 23), id="lists of 4 M elements, nested"),
        pytest.param(b"\xc6\xff\xff\xff\xff", id="4 GB of bytes"),
        pytest.param(b"\xc9\xff\xff\xff\xff\x01", id="4 GB of an extension"),
        pytest.param(b"\x81\xa1a" * 2000 + b"\x01", id="a deep tree"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_checkpoint_allots_no_more_than_its_own_size(content: bytes, tmp_path: Path) -> None:
    """In a process of its own, which may not have more memory than a small file can need."""
    path = tmp_path / "checkpoint"
    path.write_bytes(content)
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom glimmer import ModelError\n"
        "from glimmer.encoders.t5x_checkpoint import read_t5x\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nbefore = peak()\n"
        "try:\n    read_t5x(Path(sys.argv[1]))\nexcept ModelError as error:\n    print(error)\n"
        "assert peak() - before < 200 << 10, peak() - before\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{path}: ")
    assert done.stdout.count("\n") == 1
