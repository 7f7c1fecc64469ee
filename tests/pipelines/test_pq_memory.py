"""Codec `pq` through a memory's life: encoded, killed, encoded again, refreshed, compacted, damaged and repaired."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from changing import payload
from safetensors.numpy import load_file, save_file

from glimmer import DamageError, InputError
from glimmer.encoders.memory_encoder import EncodedBatch
from glimmer.pipelines.capacity.dry_run import dry_run
from glimmer.pipelines.encode import encode
from glimmer.pipelines.encoding.finite_codes import refuse_non_finite
from glimmer.pipelines.maintenance.compact import compact
from glimmer.pipelines.maintenance.repair import repair
from glimmer.pipelines.refresh import refresh
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify

CODEC = "pq:bytes=6"
TABLES = "codec/tables.safetensors"


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


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_ids_of_a_large_vocabulary_take_three_bytes(
    family: str, tiny_model: Callable[..., Path], corpus: Path, tmp_path: Path
) -> None:
    model = tiny_model(tmp_path / "large", family=family, vocabulary=70_000, window=48, with_decoder=False)
    encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model), codec=CODEC)
    opened = Memory.open(tmp_path / "m")
    assert {name: table.shape[0] for name, table in opened.codec.tables().items()} == {
        "token_means": 70_000,
        "token_scales": 70_000,
        "position_means": 256,
        "rotation": 32,
        "centroids": 3,
    }
    codes, lengths = opened.fetch([0])
    [passage] = opened.texts([0])
    assert np.array_equal(codes[0, : lengths[0], :3] @ np.array([1, 256, 65536]), passage.tokens)


def test_the_same_corpus_gives_the_same_bytes(encoded: Path, model: Path, corpus: Path, tmp_path: Path) -> None:
    encode(sources=[str(corpus)], memory=tmp_path / "m", model=str(model), codec=CODEC)
    assert payload(tmp_path / "m") == payload(encoded)
    assert (tmp_path / "m" / TABLES).read_bytes() == (encoded / TABLES).read_bytes()


def test_a_refresh_uses_the_tables_and_a_repair_gives_the_codes_back(
    encoded: Path, corpus: Path, tmp_path: Path
) -> None:
    memory = Path(shutil.copytree(encoded, tmp_path / "m"))
    newer = tmp_path / "newer.jsonl"
    lines = corpus.read_text().splitlines()
    newer.write_text("\n".join([*lines[5:], lines[0].replace('"text": "', '"text": "New words. ')]) + "\n")
    refresh(sources=[str(newer)], memory=memory)
    before, after = payload(encoded), payload(memory)
    assert all(after[name] == before[name] for name in after.keys() & before.keys())
    assert after.keys() - before.keys()
    assert (memory / TABLES).read_bytes() == (encoded / TABLES).read_bytes()
    shard = next((memory / "segments").glob("*/codes/c.0.0.0"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert not verify(memory).sound
    assert repair(memory=memory).sound
    assert payload(memory) == after


def test_compaction_copies_the_codes_and_keeps_the_tables(encoded: Path, corpus: Path, tmp_path: Path) -> None:
    memory = Path(shutil.copytree(encoded, tmp_path / "m"))
    newer = tmp_path / "newer.jsonl"
    newer.write_text("\n".join(corpus.read_text().splitlines()[20:]) + "\n")
    refresh(sources=[str(newer)], memory=memory, max_removed=1.0)
    before = payload(memory)
    compact(memory=memory, dead_share=0.01)
    assert payload(memory) == before
    assert (memory / TABLES).read_bytes() == (encoded / TABLES).read_bytes()
    assert verify(memory).sound


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_in_the_tables_is_found_and_one_in_a_code_decodes_to_finite_numbers(
    encoded: Path, tmp_path: Path, seed: int
) -> None:
    memory, dice = Path(shutil.copytree(encoded, tmp_path / "m")), np.random.default_rng(seed)
    content = bytearray((memory / TABLES).read_bytes())
    bit = int(dice.integers(8 * len(content)))
    content[bit // 8] ^= 1 << bit % 8
    (memory / TABLES).write_bytes(content)
    assert [damage.path for damage in verify(memory).damages] == [TABLES]
    with pytest.raises(DamageError, match=r"codec/tables\.safetensors"):
        Memory.open(memory)
    opened = Memory.open(encoded)
    codes, lengths = opened.fetch(np.arange(opened.passages))
    real = np.flatnonzero(np.arange(opened.window) < lengths[:, None])
    flat = codes.reshape(-1, opened.codec.code_bytes).copy()
    flipped = dice.choice(real, 200, replace=False)
    flat[flipped, dice.integers(0, flat.shape[1], 200)] ^= (1 << dice.integers(0, 8, 200)).astype(np.uint8)
    back = np.asarray(opened.codec.decode(jnp.asarray(flat.reshape(codes.shape)), jnp.float32)).reshape(len(flat), -1)
    truth = np.asarray(opened.codec.decode(jnp.asarray(codes), jnp.float32)).reshape(len(flat), -1)
    assert np.isfinite(back).all()
    others = np.setdiff1d(real, flipped)
    assert np.array_equal(back[others], truth[others])
    assert (back[flipped] != truth[flipped]).any(-1).mean() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_killed_in_the_table_step_the_same_command_ends_with_the_same_bytes(
    share: float, encoded: Path, model: Path, corpus: Path, tmp_path: Path
) -> None:
    """A real SIGKILL between the plan and the tables, after so much of the time that lay between them undisturbed."""
    command = [sys.executable, "-m", "glimmer", "encode", corpus, "--model", model, "--codec", CODEC, "--memory"]
    place = Path(__file__).parents[3]

    def start(memory: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(place)}
        return subprocess.Popen(
            [*map(str, command), str(memory)], env=environment, cwd=place, stderr=subprocess.DEVNULL
        )

    def until(process: subprocess.Popen[bytes], memory: Path, name: str) -> float:
        while process.poll() is None and not any(memory.glob(f"jobs/*/{name}")):
            time.sleep(0.001)
        return time.monotonic()

    process = start(tmp_path / "undisturbed")
    between = -until(process, tmp_path / "undisturbed", "plan.json")
    between += until(process, tmp_path / "undisturbed", "tables.safetensors")
    assert process.wait() == 0
    memory = tmp_path / "m"
    process = start(memory)
    until(process, memory, "plan.json")
    time.sleep(share * between)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert share > 0.1 or not list(memory.glob("jobs/*/fit.json"))
    result = encode(sources=[str(corpus)], memory=memory, model=str(model), codec=CODEC)
    assert "plan" not in result.seconds
    assert payload(memory) == payload(encoded)
    assert (memory / TABLES).read_bytes() == (encoded / TABLES).read_bytes()
    assert verify(memory).sound


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
