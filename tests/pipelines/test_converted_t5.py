"""A T5 checkpoint all the way: converted, its memory encoded, answered from as it is, trained, answered from again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from glimmer.encoders.models import load_model
from glimmer.pipelines.answer import answer_file
from glimmer.pipelines.convert import convert
from glimmer.pipelines.encode import encode
from glimmer.pipelines.train import train
from glimmer.reader.config import ReaderConfig, RerankerConfig
from glimmer.reader.serving.retrieval_index import open_index
from glimmer.reader.training.settings import DataConfig, OptimiserConfig, TaskConfig, TrainConfig
from glimmer.storage.memory import Memory


@pytest.fixture(scope="module")
def home(
    t5_files: Path,
    tiny_corpus: Callable[..., Path],
    tiny_questions: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A directory with a tiny T5 that the T5X project trained, converted, and a memory that it made."""
    home = tmp_path_factory.mktemp("t5")
    checkpoint, tokenizer = (t5_files / name for name in ("test_t5_tiny.checkpoint_0", "spiece.model"))
    convert(source=checkpoint, tokenizer=tokenizer, output=home / "model", live_proportion="1/2", rerank_proportion=1)
    encode(sources=[str(tiny_corpus(home / "corpus.jsonl", 12))], memory=home / "memory", model=str(home / "model"))
    tiny_questions(home / "questions.jsonl", 5)
    return home


def candidates(home: Path, model: Path) -> list[list[str]]:
    """Passage ids that each question's answer was read from, in order."""
    answer_file(
        queries=str(home / "questions.jsonl"),
        memory=home / "memory",
        model=str(model),
        output=home / f"{model.name}.jsonl",
        candidates=4,
        select=3,
        max_answer_tokens=4,
    )
    lines = (home / f"{model.name}.jsonl").read_text().splitlines()
    return [[place["passage_id"] for place in json.loads(line)["output"][0]["provenance"]] for line in lines]


def test_fresh_from_conversion_it_answers_and_keeps_the_first_stages_order(home: Path) -> None:
    config = ReaderConfig.from_model(load_model(home / "model").config)
    assert config.scores
    assert (config.decoder.start_id, config.decoder.eos_id, config.decoder.pad_id) == (0, 1, 0)
    memory = Memory.open(home / "memory")
    questions = [json.loads(line)["input"] for line in (home / "questions.jsonl").read_text().splitlines()]
    found = open_index(memory).search(questions, 4)
    kept = candidates(home, home / "model")
    assert kept == [memory.ids(hits.positions[:3]) for hits in found]


@pytest.mark.parametrize("outlier", [1, 1e5], ids=["as converted", "with an outlier dimension"])
def test_its_memory_in_codec_pq_is_near_what_it_encodes_and_is_answered_from(
    home: Path, tmp_path: Path, outlier: float
) -> None:
    """Trained T5 has dimensions of its residual stream that are far larger than the others."""
    model = Path(shutil.copytree(home / "model", tmp_path / "model"))
    tensors = load_file(model / "model.safetensors")
    tensors["encoder.embedding"] = tensors["encoder.embedding"].copy()
    tensors["encoder.embedding"][:, 5] *= outlier
    save_file(tensors, model / "model.safetensors")
    for name, codec in (("exact", "float32"), ("pq", "pq")):
        encode(sources=[str(home / "corpus.jsonl")], memory=tmp_path / name, model=str(model), codec=codec)
    exact, compressed = Memory.open(tmp_path / "exact"), Memory.open(tmp_path / "pq")
    positions = np.arange(exact.passages)
    codes, lengths = exact.fetch(positions)
    real = np.arange(exact.window) < lengths[:, None]
    wanted = np.asarray(exact.codec.decode(jnp.asarray(codes), jnp.float32))[real]
    found = np.asarray(compressed.codec.decode(jnp.asarray(compressed.fetch(positions)[0]), jnp.float32))[real]
    sizes = np.median(np.abs(wanted), axis=0)
    assert sizes[5] / np.median(sizes) > outlier / 10
    unexplained = np.square(found - wanted).sum(0) / np.square(wanted - wanted.mean(0)).sum(0)
    assert unexplained[5] < 0.2
    assert np.delete(unexplained, 5).mean() < 0.2
    answer_file(
        queries=str(home / "questions.jsonl"),
        memory=tmp_path / "pq",
        model=str(model),
        output=tmp_path / "answers.jsonl",
        candidates=4,
        select=3,
        max_answer_tokens=4,
    )
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize("reranker", [None, RerankerConfig(layers=1)], ids=["shared layers", "layers of its own"])
def test_it_is_trained_and_then_answers(
    home: Path, reranker: RerankerConfig | None, tiny_gold: Callable[..., Path]
) -> None:
    task = tiny_gold(Memory.open(home / "memory"), home / "task.jsonl", 0, 4)
    name = "shared" if reranker is None else "own"
    config = TrainConfig(
        model=str(home / "model"),
        memory=str(home / "memory"),
        run=str(home / f"{name}-run"),
        output=str(home / f"{name}-reader"),
        steps=2,
        tasks=(TaskConfig(name="one", file=str(task)),),
        data=DataConfig(candidates=3, select=2, irrelevant_weight=1.0),
        optimiser=OptimiserConfig(batch=2, precision="float32"),
        reranker=reranker,
    )
    result = train(config=config)
    trained, before = load_model(result.output), load_model(home / "model")
    assert trained.fingerprint == before.fingerprint
    assert np.any(trained.tensors["reranker.score.kernel"] != 0)
    assert all(len(kept) <= 3 for kept in candidates(home, home / f"{name}-reader"))
