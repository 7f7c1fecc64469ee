"""`glimmer train` as a job: task files and a memory in, a reader that answers out, the same when cut and resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from glimmer import MismatchError, UsageError
from glimmer.encoders.models import load_model
from glimmer.pipelines.answer import answer_file
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.encode import encode
from glimmer.pipelines.train import _start, train
from glimmer.reader.config import RerankerConfig
from glimmer.reader.formats.queries import open_queries
from glimmer.reader.serving.candidates import CandidateFinder
from glimmer.reader.serving.retrieval_index import open_index
from glimmer.reader.training.examples import (
    Example,
    ExampleSettings,
    TaskCounts,
    _with_positions,
    gold_positions,
    load_examples,
)
from glimmer.reader.training.log import read_log
from glimmer.reader.training.settings import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    FreshDecoder,
    OptimiserConfig,
    TaskConfig,
    TrainConfig,
)
from glimmer.storage.memory import Memory

STEPS = 6


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_corpus: Callable[..., Path],
    tiny_model: Callable[..., Path],
    tiny_gold: Callable[..., Path],
) -> Path:
    """A directory with a GLIMMER reader of random weights, a memory, two tasks and a dev file."""
    home = tmp_path_factory.mktemp("train")
    model = tiny_model(home / "model", memory_layers=1, live_a=1, live_b=1, window=32)
    corpus = tiny_corpus(home / "corpus.jsonl", 24)
    encode(sources=[str(corpus)], memory=home / "memory", model=str(model), passage_words=12)
    memory = Memory.open(home / "memory")
    tiny_gold(memory, home / "one.jsonl", 0, 12)
    tiny_gold(memory, home / "two.jsonl", 20, 5)
    tiny_gold(memory, home / "dev.jsonl", 40, 4)
    return home


def config_of(world: Path, name: str, **changes: Any) -> TrainConfig:
    config = TrainConfig(
        model=str(world / "model"),
        memory=str(world / "memory"),
        run=str(world / f"{name}-run"),
        output=str(world / f"{name}-reader"),
        steps=STEPS,
        tasks=(
            TaskConfig(name="one", file=str(world / "one.jsonl"), rate=3.0),
            TaskConfig(name="two", file=str(world / "two.jsonl")),
        ),
        data=DataConfig(candidates=4, select=2, question_tokens=16, answer_tokens=16),
        optimiser=OptimiserConfig(batch=2, precision="float32"),
        evaluation=EvaluationConfig(
            file=str(world / "dev.jsonl"), every=4, candidates=4, select=2, max_answer_tokens=4
        ),
        checkpoints=CheckpointConfig(every=2),
    )
    return replace(config, **changes)


def history(config: TrainConfig) -> list[dict[str, str]]:
    """The log without its times."""
    return [
        {name: cell for name, cell in row.items() if name not in ("seconds", "questions_per_second")}
        for row in read_log(Path(config.run) / "log.csv")
    ]


@pytest.fixture(scope="module")
def whole(world: Path) -> TrainConfig:
    """A run that nothing interrupted."""
    config = config_of(world, "whole")
    result = train(config=config)
    assert result.steps == STEPS
    assert result.resumed == 0
    return config


def test_a_run_logs_every_step_and_ends_with_a_reader_that_answers(whole: TrainConfig, world: Path) -> None:
    rows = history(whole)
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    assert all(float(row["loss"]) > 0 and float(row["distillation"]) >= 0 for row in rows)
    assert [row["step"] for row in rows if row["em"]] == ["4", "6"]
    assert (Path(whole.run) / "log.svg").read_text().startswith("<svg")
    assert len(list((Path(whole.run) / "checkpoints").iterdir())) == 2
    answer_file(
        queries=world / "dev.jsonl",
        memory=world / "memory",
        model=whole.output,
        output=world / "answers.jsonl",
        candidates=4,
        select=2,
        max_answer_tokens=4,
    )
    assert len((world / "answers.jsonl").read_text().splitlines()) == 4
    card = (Path(whole.output) / "README.md").read_text()
    assert "| one | 0.750 | 12 |" in card


def test_training_leaves_the_memory_encoder_alone_and_moves_the_rest(whole: TrainConfig) -> None:
    before, after = load_model(whole.model), load_model(whole.output)
    assert after.fingerprint == before.fingerprint
    same = {name for name in before.tensors if np.array_equal(before.tensors[name], after.tensors[name])}
    assert {"encoder.embedding", "encoder.layers.0.attention.q.kernel"} <= same
    assert not {name for name in same if not name.startswith("encoder.")}
    assert not {name for name in same if name.startswith(("encoder.layers.1.", "encoder.layers.2."))}


def test_the_same_run_again_has_nothing_to_do(whole: TrainConfig) -> None:
    weights = (Path(whole.output) / "model.safetensors").stat().st_mtime_ns
    again = train(config=whole)
    assert again.nothing_to_do
    assert (again.steps, again.tasks["one"].questions) == (STEPS, 12)
    assert (Path(whole.output) / "model.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(UsageError, match="exists and is not what this run made"):
        train(config=replace(whole, steps=STEPS + 1))


@pytest.mark.slow
def test_a_run_killed_without_warning_goes_on_as_if_it_had_not_been(whole: TrainConfig, world: Path) -> None:
    """`kill -9` between two checkpoints: the resumed log and weights equal those of the uninterrupted run."""
    config = config_of(world, "killed")
    toml = world / "killed.toml"
    toml.write_text(as_toml(config), encoding="utf-8")
    assert TrainConfig.from_toml(toml) == config
    code = "from glimmer.pipelines.cli.program import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, "train", "--config", str(toml)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    try:
        while not (Path(config.run) / "checkpoints" / "step-00000002").exists():
            assert process.poll() is None, "training ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not Path(config.output).exists()
    result = train(config=config)
    assert result.resumed >= 2
    assert history(config) == history(whole)
    first, second = load_model(whole.output), load_model(config.output)
    for name in first.tensors:
        np.testing.assert_array_equal(first.tensors[name], second.tensors[name])


def test_questions_without_gold_or_answer_among_their_candidates_are_left_out_or_count_less(world: Path) -> None:
    """Four questions: gold named, answer in BM25's passages, neither, and no answer at all."""
    memory = Memory.open(world / "memory")
    model = load_model(world / "model")
    passage = memory.texts(np.array([3]))[0]
    place = {
        "wikipedia_id": passage.article_id,
        "start_paragraph_id": passage.start_paragraph_id,
        "end_paragraph_id": passage.end_paragraph_id,
    }
    found = {"id": "found", "input": passage.text, "output": [{"answer": passage.text.split()[2].strip(".")}]}
    records = [
        {"id": "gold", "input": "zzz?", "output": [{"answer": "quux", "provenance": [place]}]},
        found,
        {"id": "neither", "input": passage.text, "output": [{"answer": "quux"}]},
        {"id": "unanswered", "input": passage.text, "output": [{"provenance": [place]}]},
    ]
    path = world / "four.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    finder = CandidateFinder(limit=4, index=open_index(memory), provided=None)

    def loaded(*, gold: bool, weight: float, passage_tokens: int = 0) -> tuple[list[Example], TaskCounts]:
        settings = ExampleSettings(
            candidates=4,
            passage_tokens=passage_tokens,
            question_tokens=64,
            answer_tokens=16,
            gold=gold,
            irrelevant_weight=weight,
            eos_id=3,
        )
        return load_examples(open_queries(path), model, memory, finder, settings)

    examples, counts = loaded(gold=True, weight=0.0)
    assert (counts.questions, counts.used, counts.irrelevant, counts.without_answer) == (4, 2, 1, 1)
    gold = next(positions for _, positions in gold_positions(memory, open_queries(path)))
    assert 3 in gold
    assert examples[0].positions.tolist() == gold[:2]  # BM25 found nothing: gold alone, half the places at most
    assert 3 in examples[1].positions
    assert examples[0].retrieval.tolist() == [0.0] * len(gold[:2])
    assert (examples[1].retrieval > 0).all()
    assert examples[0].answers[0][-1] == 3
    examples, counts = loaded(gold=True, weight=0.25)
    assert [example.weight for example in examples] == [1.0, 1.0, 0.25]
    assert (counts.used, counts.irrelevant) == (3, 1)
    _, counts = loaded(gold=False, weight=0.0)
    assert (counts.used, counts.without_candidates) == (1, 1)
    _, counts = loaded(gold=False, weight=0.0, passage_tokens=2)
    assert (counts.used, counts.irrelevant) == (0, 2)  # of "found", nothing is left to read


def test_gold_passages_that_were_not_found_take_the_place_of_the_last_others() -> None:
    assert _with_positions([7, 8, 9, 5], [5, 6], 4) == [7, 8, 5, 6]
    assert _with_positions([7, 8], [8], 4) == [7, 8]
    assert _with_positions([], [5], 4) == [5]


def test_checkpoints_of_other_settings_are_refused_and_outputs_never_overwritten(
    whole: TrainConfig, world: Path
) -> None:
    with pytest.raises(UsageError, match="exists and is not what this run made"):
        train(config=replace(whole, seed=99))
    changed = replace(whole, output=str(world / "other"), optimiser=replace(whole.optimiser, learning_rate=0.5))
    with pytest.raises(MismatchError, match="other settings"):
        train(config=changed)


@pytest.mark.slow
def test_training_stops_early_when_exact_match_no_longer_rises(world: Path) -> None:
    evaluation = EvaluationConfig(
        file=str(world / "dev.jsonl"), every=1, candidates=4, select=2, max_answer_tokens=4, patience=1
    )
    optimiser = OptimiserConfig(batch=2, precision="float32", learning_rate=1e-9, dropout=0.0)
    config = config_of(world, "early", steps=50, evaluation=evaluation, optimiser=optimiser)
    result = train(config=config)
    assert result.stopped_early
    assert (result.steps, result.best_step) == (2, 1)
    patient = replace(config, output=f"{config.output}-later", steps=3, evaluation=replace(evaluation, patience=0))
    assert train(config=patient).steps == 3  # more patience lets it go on


@pytest.mark.slow
def test_a_decoder_from_scratch_and_the_memory_encoder_can_be_trained_too(
    world: Path, tiny_model: Callable[..., Path]
) -> None:
    bare = tiny_model(world / "bare", memory_layers=1, live_a=1, live_b=1, window=32, with_decoder=False)
    fresh = FreshDecoder(layers=1, d_ff=64, num_heads=2, d_kv=16, kv_heads=1)
    config = config_of(world, "fresh", model=str(bare), decoder=fresh, train="everything", evaluation=None, steps=1)
    train(config=config)
    before, after = load_model(bare), load_model(config.output)
    assert after.config.decoder is not None
    assert after.fingerprint != before.fingerprint


@pytest.mark.slow
def test_a_fresh_decoder_that_copies_is_taught_with_its_passages_and_answers_from_them(
    world: Path, tiny_model: Callable[..., Path]
) -> None:
    bare = tiny_model(world / "blank", memory_layers=1, live_a=1, live_b=1, window=32, with_decoder=False)
    fresh = FreshDecoder(layers=1, d_ff=64, num_heads=2, d_kv=16, kv_heads=2, copy_width=16, copy_by_score=True)
    optimiser = OptimiserConfig(batch=4, precision="float32", name="adam", learning_rate=0.01, dropout=0.0)
    config = config_of(world, "copying", model=str(bare), decoder=fresh, optimiser=optimiser, steps=30)
    train(config=config)
    losses = [float(row["cross_entropy"]) for row in history(config)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5]), losses
    trained = load_model(config.output)
    assert trained.config.decoder is not None
    assert (trained.config.decoder["copy_width"], trained.config.decoder["copy_by_score"]) == (16, True)


def test_a_fresh_decoder_reads_word_embeddings_of_about_one_a_dimension(
    world: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    bare = tiny_model(tmp_path / "bare", with_decoder=False)
    fresh = FreshDecoder(layers=2, d_ff=16, num_heads=2, d_kv=8, kv_heads=2)
    config, tensors = _start(load_model(bare), config_of(world, "fresh", decoder=fresh))
    assert config.decoder is not None
    assert tensors["encoder.embedding"].std() * config.decoder["embedding_scale"] == pytest.approx(1.0, rel=1e-3)
    assert "decoder.layers.1.mlp.wo.kernel" in tensors
    assert "reranker.score.kernel" in tensors


def test_a_decoder_may_come_from_another_model(world: Path, tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    bare = load_model(tiny_model(tmp_path / "bare", with_decoder=False))
    taken = config_of(world, "taken", decoder_from=str(world / "model"))
    config, tensors = _start(bare, taken)
    other = load_model(world / "model")
    assert config.decoder == other.config.decoder
    for name in tensors:
        source = other if name.startswith("decoder.") else bare
        if not name.startswith("reranker."):
            np.testing.assert_array_equal(tensors[name], source.tensors[name])
    with pytest.raises(UsageError, match="exclude each other"):
        replace(taken, decoder=FreshDecoder(layers=1, d_ff=8, num_heads=1, d_kv=8, kv_heads=1))


def test_the_re_ranker_may_be_made_of_something_else_than_the_models(world: Path) -> None:
    loaded = load_model(world / "model")
    config, tensors = _start(loaded, config_of(world, "late", reranker=RerankerConfig(late_interaction=5.0)))
    assert config.reranker == {"layers": 0, "retrieval_weight": 0.0, "late_interaction": 5.0}
    for name in tensors:
        np.testing.assert_array_equal(tensors[name], loaded.tensors[name])
    assert _start(loaded, config_of(world, "same"))[0].reranker is None


def test_live_layers_may_begin_quieter(world: Path) -> None:
    loaded = load_model(world / "model")
    _, tensors = _start(loaded, config_of(world, "quiet", live_scale=0.5))
    scaled = {name for name in tensors if not np.array_equal(tensors[name], loaded.tensors[name])}
    wanted = {name for name in tensors if re.fullmatch(r"encoder\.layers\.[12]\.(attention\.o|mlp\.wo)\.kernel", name)}
    assert wanted <= scaled
    assert all(name.rsplit(".", 1)[0] in {one.rsplit(".", 1)[0] for one in wanted} for name in scaled)
    np.testing.assert_allclose(
        tensors["encoder.layers.2.mlp.wo.kernel"], 0.5 * loaded.tensors["encoder.layers.2.mlp.wo.kernel"]
    )


def test_the_command_explains_itself_and_names_what_is_wrong_in_a_file(tmp_path: Path) -> None:
    shown = CliRunner().invoke(glimmer, ["train", "--help"])
    assert "glimmer train --config reader.toml" in shown.output
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('model = "m"\nlearning_rat = 1\n')
    result = CliRunner().invoke(glimmer, ["train", "--config", str(wrong)])
    assert isinstance(result.exception, UsageError)
    assert "no key 'learning_rat'" in str(result.exception)


def as_toml(config: TrainConfig) -> str:
    """A configuration without a decoder section as TOML."""
    lines = [f"{name} = {json.dumps(getattr(config, name))}" for name in ("model", "memory", "run", "output", "steps")]
    for task in config.tasks:
        lines += ["[[tasks]]", *(f"{name} = {json.dumps(value)}" for name, value in vars(task).items())]
    for section in ("data", "losses", "optimiser", "evaluation", "checkpoints"):
        lines += [f"[{section}]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in vars(getattr(config, section)).items()]
    return "\n".join(lines) + "\n"
