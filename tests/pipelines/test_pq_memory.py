"""Codec `pq` through a memory's life: encoded, encoded again, refreshed, damaged and repaired."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from changing import payload
from safetensors.numpy import load_file, save_file

from glimmer import InputError
from glimmer.encoders.memory_encoder import EncodedBatch
from glimmer.pipelines.capacity.dry_run import dry_run
from glimmer.pipelines.encode import encode
from glimmer.pipelines.encoding.finite_codes import refuse_non_finite
from glimmer.pipelines.maintenance.repair import repair
from glimmer.pipelines.refresh import refresh
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify

CODEC = "pq:bytes=6"


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", memory_layers=1, live_a=1, live_b=1, window=48)


@pytest.fixture(scope="module")
def corpus(tiny_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpora") / "corpus.jsonl", 60)


@pytest.fixture(scope="module")
def encoded(model: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    memory = tmp_path_factory.mktemp("encoded") / "m"
    encode(sources=[str(corpus)], memory=memory, model=str(model), codec=CODEC)
    return memory


def test_a_code_begins_with_the_passages_own_token_ids(encoded: Path) -> None:
    opened = Memory.open(encoded)
    found, lengths = opened.fetch(np.arange(9))
    for code, length, passage in zip(found, lengths, opened.texts(np.arange(9)), strict=True):
        assert np.array_equal(code[:length, :2].copy().view("<u2")[:, 0], passage.tokens)
        assert not code[length:].any()
    assert verify(encoded).sound


def test_the_same_corpus_gives_the_same_bytes(encoded: Path, model: Path, corpus: Path, tmp_path: Path) -> None:
    encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model), codec=CODEC)
    assert payload(tmp_path / "m") == payload(encoded)
    table = "codec/tables.safetensors"
    assert (tmp_path / "m" / table).read_bytes() == (encoded / table).read_bytes()


def test_a_refresh_uses_the_tables_and_a_repair_gives_the_codes_back(
    encoded: Path, corpus: Path, tmp_path: Path
) -> None:
    memory = Path(shutil.copytree(encoded, tmp_path / "m"))
    table = (memory / "codec/tables.safetensors").read_bytes()
    newer = tmp_path / "newer.jsonl"
    lines = corpus.read_text().splitlines()
    newer.write_text("\n".join([*lines[5:], lines[0].replace('"text": "', '"text": "New words. ')]) + "\n")
    refresh(sources=[str(newer)], memory=memory)
    before, after = payload(encoded), payload(memory)
    assert all(after[name] == before[name] for name in after.keys() & before.keys())
    assert after.keys() - before.keys()
    assert (memory / "codec/tables.safetensors").read_bytes() == table
    shard = next((memory / "segments").glob("*/codes/c.0.0.0"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert not verify(memory).sound
    assert repair(memory=memory).sound
    assert payload(memory) == after


def test_a_model_whose_output_is_not_finite_is_refused(model: Path, corpus: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    tensors["encoder.embedding"] = tensors["encoder.embedding"].copy()
    tensors["encoder.embedding"][:] = np.nan
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(
        InputError, match=r"passage [0-9a-f]{32}: .*a NaN or an infinity, which no codec can be fitted to"
    ):
        encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(broken), codec=CODEC)
    assert not (tmp_path / "m" / "memory.json").exists()


def test_a_code_that_says_so_is_refused_by_its_passages_id(encoded: Path) -> None:
    codec = Memory.open(encoded).codec
    outputs = np.zeros((2, 4, codec.code_bytes), np.uint8)
    batch = EncodedBatch(indices=np.array([2, 1]), outputs=outputs, lengths=np.array([4, 4], np.int32))
    refuse_non_finite(codec, batch, ["a", "b", "c"])
    outputs[1, 2, :2] = 255
    with pytest.raises(InputError, match=r"passage b: .*which codec pq cannot keep"):
        refuse_non_finite(codec, batch, ["a", "b", "c"])


def test_a_dry_run_knows_its_size(model: Path, corpus: Path) -> None:
    dry = dry_run(sources=[str(corpus)], model=str(model), codec=CODEC)
    assert dry.most_bytes - dry.text_bytes == 6 * dry.plan.tokens
