"""`glimmer bench codecs`: what each codec costs and loses, answered by the code that answers from memories."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
from click.testing import CliRunner

from glimmer import CodecBench, MismatchError, UsageError, answer_file, bench_codecs
from glimmer.encoders.memory_encoder import MemoryEncoder
from glimmer.encoders.models import load_model
from glimmer.pipelines.cli.commands.bench import table
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.codec_bench.answer_comparison import paired
from glimmer.pipelines.codec_bench.passage_choice import held_out
from glimmer.pipelines.codec_bench.question_set import QuestionSet
from glimmer.pipelines.codec_bench.rate_plot import rate_plot
from glimmer.pipelines.codec_bench.recoded_passages import RecodedPassages
from glimmer.pipelines.codec_bench.representations import encoded_passages
from glimmer.pipelines.encode import encode
from glimmer.progress import Quiet
from glimmer.reader.formats.kilt import read_guess
from glimmer.reader.formats.queries import open_queries
from glimmer.reader.serving.answer_options import AnswerOptions
from glimmer.storage.memory import Memory

QUESTIONS = 12
CODECS = ["int8", "pq:bytes=4"]
SMALL: dict[str, Any] = {"candidates": 8, "select": 3, "batch_size": 4, "max_answer_tokens": 6}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_corpus: Callable[..., Path],
    tiny_model: Callable[..., Path],
    tiny_gold: Callable[..., Path],
) -> Path:
    """A directory with a GLIMMER reader, an int8 memory of 60 articles, and questions with gold answers."""
    home = tmp_path_factory.mktemp("bench")
    model = tiny_model(home / "model", memory_layers=2, live_a=1, live_b=1, reranker_layers=1, window=48)
    corpus = tiny_corpus(home / "corpus.jsonl", 60)
    encode(sources=[str(corpus)], memory=home / "memory", model=str(model), passage_words=16)
    tiny_gold(Memory.open(home / "memory"), home / "questions.jsonl", 3, QUESTIONS)
    return home


@pytest.fixture(scope="module")
def found(world: Path) -> CodecBench:
    return bench_codecs(
        memory=world / "memory",
        model=world / "model",
        queries=world / "questions.jsonl",
        codecs=CODECS,
        peers=["colbertv2:bits=2"],
        **SMALL,
    )


def test_each_codec_gets_a_row_and_the_uncompressed_one_comes_first(found: CodecBench) -> None:
    assert [row.codec for row in found.codecs] == ["bfloat16", *CODECS, "colbertv2:bits=2"]
    assert [row.code_bytes for row in found.codecs] == [64, 36, 4, 10]
    assert [row.peer for row in found.codecs] == [False] * 3 + [True]
    assert [row.compression for row in found.codecs] == [64 / row.code_bytes for row in found.codecs]
    assert found.queries == found.scored == QUESTIONS
    assert all(row.encode_tokens_per_second > 0 < row.decode_tokens_per_second for row in found.codecs)


def test_fewer_bytes_err_more(found: CodecBench) -> None:
    errors = {row.codec: row.relative_mse for row in found.codecs}
    assert errors["bfloat16"] < errors["int8"] < errors["pq:bytes=4"] < 1
    assert errors["bfloat16"] < 1e-5


def test_the_uncompressed_answers_do_not_differ_from_themselves(found: CodecBench) -> None:
    first = found.codecs[0]
    assert first.same_answer == first.same_first == 1
    assert first.em is not None
    assert first.em.difference == first.em.low == first.em.high == 0


def test_a_difference_is_that_of_the_averages_and_lies_in_its_interval(found: CodecBench) -> None:
    whole = found.codecs[0]
    assert whole.f1 is not None
    for row in found.codecs[1:]:
        assert row.f1 is not None
        assert row.f1.difference == pytest.approx(row.f1.value - whole.f1.value)
        assert row.f1.low <= row.f1.difference <= row.f1.high


def test_codes_and_answers_are_those_of_a_memory_with_that_codec(world: Path, tmp_path: Path) -> None:
    memory, model = Memory.open(world / "memory"), load_model(world / "model")
    options = AnswerOptions.resolved(model, **SMALL)
    asked = open_queries(world / "questions.jsonl")
    questions = QuestionSet(asked, None, model=model, memory=memory, options=options, progress=Quiet())
    encoder = MemoryEncoder(
        model, precision=memory.identity.encoder.precision, shapes=memory.identity.shapes, transform=as_float32
    )
    with encoded_passages(encoder, memory, questions.positions, Quiet()) as representations:
        passages = RecodedPassages(memory, representations, memory.codec, progress=Quiet())
        mine, stored = passages.fetch(questions.positions), memory.fetch(questions.positions)
        assert np.array_equal(mine[0], stored[0])
        assert np.array_equal(mine[1], stored[1])
        answers = questions.answers(passages, "int8")
    answer_file(
        queries=world / "questions.jsonl",
        memory=world / "memory",
        model=world / "model",
        output=tmp_path / "predictions.jsonl",
        **SMALL,
    )
    predicted = [record.outputs[0] for record in read_guess(tmp_path / "predictions.jsonl")]
    assert list(answers.texts) == [each.answer or "" for each in predicted]
    firsts = [(each.provenance or ())[0].passage_id or "" for each in predicted]
    assert answers.first.tolist() == memory.locate(firsts).tolist()


def as_float32(hidden: jax.Array, ids: jax.Array) -> jax.Array:
    return hidden.astype("float32")


def test_without_questions_only_bytes_error_and_speed_are_measured(world: Path) -> None:
    found = bench_codecs(memory=world / "memory", model=world / "model")
    assert [row.codec for row in found.codecs] == ["bfloat16", "int8", "pq:bytes=4"]
    assert found.queries == found.scored == 0
    for row in found.codecs:
        assert [row.em, row.f1, row.same_answer, row.same_first, row.answer_seconds] == [None] * 5
    assert found.passages == found.held_out_passages


def test_what_is_held_out_is_not_fitted_to() -> None:
    for passages in (2, 9, 4096, 10_000):
        tested, fitted = held_out(passages)
        assert len(tested) == min(512, max(1, passages // 8))
        assert np.array_equal(np.sort(np.concatenate([tested, fitted])), np.arange(passages))


def test_an_interval_narrows_with_the_root_of_the_questions() -> None:
    draw = np.random.default_rng(0)
    whole = draw.integers(0, 2, 6400).astype(float)
    values = np.where(draw.random(6400) < 0.1, 1 - whole, whole)
    few, many = paired(values[:400], whole[:400]), paired(values, whole)
    assert 2.5 < (few.high - few.low) / (many.high - many.low) < 6
    normal = 2 * 1.96 * float(np.std(values - whole)) / 80
    assert many.high - many.low == pytest.approx(normal, rel=0.05)


def test_questions_without_gold_take_no_part_in_scores() -> None:
    values, whole = np.array([1.0, np.nan, 0.0]), np.array([1.0, np.nan, 1.0])
    assert paired(values, whole).value == 0.5
    assert paired(values, whole).difference == -0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codecs": ["zip"]}, "unknown codec 'zip'"),
        ({"peers": ["zip"]}, "unknown peer 'zip'"),
        ({"peers": ["colbertv2:bits=3"]}, "bits is 3, expected an integer from 1 to 2"),
        ({"limit": 0}, "at least 1 question"),
    ],
)
def test_what_there_is_not_is_refused_before_any_work(world: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench_codecs(memory=world / "memory", model=world / "model", **changes)


def test_a_memory_of_another_encoder_is_refused(world: Path, tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other", memory_layers=2, live_a=1, live_b=1, window=48, seed=1)
    with pytest.raises(MismatchError):
        bench_codecs(memory=world / "memory", model=other)


def test_the_table_has_a_line_for_each_codec(found: CodecBench) -> None:
    lines = table(found).splitlines()
    assert [line.split()[0] for line in lines[2:6]] == [row.codec for row in found.codecs]
    assert "difference [95 %]" in lines[0]
    assert "bootstrap over questions" in lines[-1]
    assert "EM" not in table(replace(found, queries=0))


def test_the_command_writes_a_plot_and_prints_all_of_it_as_json(world: Path, tmp_path: Path) -> None:
    words = ["bench", "codecs", str(world / "memory"), "--model", str(world / "model"), "--codec", "int8", "-q"]
    words += ["--queries", str(world / "questions.jsonl"), "--candidates", "8", "--limit", "4", "--json"]
    words += ["--plot", str(tmp_path / "plot.svg")]
    record = json.loads(CliRunner().invoke(glimmer, words, catch_exceptions=False).stdout)
    assert [row["codec"] for row in record["codecs"]] == ["bfloat16", "int8"]
    assert set(record["codecs"][1]["em"]) == {"value", "difference", "low", "high"}
    assert record["queries"] == record["scored"] == 4, "the first four alone were asked"
    assert record["fit_tokens"] == 0, "int8 needs no fit"
    assert record["plot"] == str(tmp_path / "plot.svg")
    assert ElementTree.parse(tmp_path / "plot.svg").getroot().get("aria-label") == (
        "Exact match in percent against bytes a token"
    )


def test_the_plot_shows_the_error_where_nothing_was_answered(found: CodecBench) -> None:
    unanswered = [replace(row, em=None, f1=None) for row in found.codecs]
    image = ElementTree.fromstring(rate_plot(replace(found, scored=0, codecs=tuple(unanswered))))
    texts = [each.text for each in image.iter("{http://www.w3.org/2000/svg}text")]
    assert "Relative MSE against bytes a token" in texts
    assert set(CODECS) < set(texts)


def test_a_plot_that_would_overwrite_the_questions_is_refused(world: Path) -> None:
    with pytest.raises(UsageError, match="would overwrite the query file"):
        bench_codecs(
            memory=world / "memory",
            model=world / "model",
            queries=world / "questions.jsonl",
            plot=world / "questions.jsonl",
        )
