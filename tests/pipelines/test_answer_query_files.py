"""`glimmer answer` over query files as people have them: any format, questions too long, records without provenance."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from glimmer import InputError, MismatchError, ModelError
from glimmer.encoders.models import load_model
from glimmer.pipelines.answer import AnswerResult, answer_file
from glimmer.pipelines.cli.group import glimmer
from glimmer.pipelines.encode import encode
from glimmer.pipelines.engines import Engine
from glimmer.progress import Quiet
from glimmer.reader.formats.evaluation import score_files
from glimmer.reader.formats.kilt import read_guess
from glimmer.reader.formats.long_questions import LongQuestions
from glimmer.reader.formats.queries import Query
from glimmer.reader.serving.question_reader import QuestionReader
from glimmer.storage.memory import Memory

SMALL = {"candidates": 6, "select": 2, "batch_size": 4, "max_answer_tokens": 3}
MOST = 464  # tokens of a question beside a passage of 48, in 512 positions


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Callable[..., Path], tiny_model: Callable[..., Path]
) -> Path:
    home = tmp_path_factory.mktemp("files")
    model = tiny_model(home / "model", memory_layers=2, live_a=1, live_b=1, window=48)
    encode(sources=[str(tiny_corpus(home / "c.jsonl", 20))], memory=home / "memory", model=str(model), passage_words=16)
    return home


def run(world: Path, queries: Any, output: Path, **changes: Any) -> AnswerResult:
    settings = {"queries": queries, "memory": world / "memory", "model": world / "model", **SMALL}
    return answer_file(**{**settings, "output": output, **changes})


def kilt(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps({"id": f"q{n}"} | record) + "\n" for n, record in enumerate(records)))
    return path


def predictions(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answer_of(record: dict[str, Any]) -> str:
    (output,) = record["output"]
    return str(output["answer"])


# Formats.

ASKED = [("q-1", "kalo terlo?", ["mishami"]), ("q-2", "mishami nusha kalo?", ["terlo", "kalo"])]
FILES = {
    "kilt": "".join(
        json.dumps({"id": i, "input": q, "output": [{"answer": a} for a in answers]}) + "\n" for i, q, answers in ASKED
    ),
    "dpr": "".join(f"{q}\t{answers!r}\n" for _, q, answers in ASKED),
    "csv": "qid,query,answers\n" + "".join(f'{i},{q},"{answers!r}"\n' for i, q, answers in ASKED),
    "excel": "sep=;\nid;question;answer\n" + "".join(f"{i};{q};{answers!r}\n" for i, q, answers in ASKED),
    "nq-open": "".join(json.dumps({"question": q, "answer": answers}) + "\n" for _, q, answers in ASKED),
    "hotpotqa": json.dumps([{"_id": i, "question": q, "answer": answers[0]} for i, q, answers in ASKED]),
    "flashrag": "".join(
        json.dumps({"id": i, "question": q, "golden_answers": answers}) + "\n" for i, q, answers in ASKED
    ),
}


class Heard(Quiet):
    """Listens to what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def expected(world: Path) -> list[dict[str, Any]]:
    """Predictions for the KILT file."""
    (world / "q.jsonl").write_text(FILES["kilt"])
    run(world, world / "q.jsonl", world / "expected")
    return predictions(world / "expected")


@pytest.mark.parametrize("format", FILES)
def test_what_is_answered_can_be_evaluated_with_the_same_file(
    world: Path, tmp_path: Path, expected: list[dict[str, Any]], format: str
) -> None:
    """Ids and questions are those of the KILT file, so the answers are as well; the file itself is the gold."""
    (tmp_path / "q").write_text(FILES[format])
    heard = Heard()
    result = run(world, tmp_path / "q", tmp_path / "out", progress=heard)
    found = predictions(tmp_path / "out")
    assert [record["output"] for record in found] == [record["output"] for record in expected]
    scores = score_files(gold=tmp_path / "q", guess=tmp_path / "out")
    assert scores.questions == len(ASKED)
    assert not any("no answer" in warning for warning in scores.warnings)
    perfect = [
        {"id": record["id"], "output": [{"answer": answers[0]}]}
        for record, (*_, answers) in zip(found, ASKED, strict=True)
    ]
    (tmp_path / "perfect").write_text("\n".join(map(json.dumps, perfect)))
    assert score_files(gold=tmp_path / "q", guess=tmp_path / "perfect").metrics["em"] == 1
    assert any(line.startswith(f"{tmp_path / 'q'}: {result.format}, 2 queries (id from ") for line in heard.lines)
    assert result.to_json()["fields"] == dict(result.fields)


def test_ms_marco_ids_are_ids_and_no_part_of_the_question(world: Path, tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("1048000\tkalo terlo?\n1048001\tmishami?\n")
    result = run(world, tmp_path / "q.tsv", tmp_path / "out")
    assert [record["id"] for record in predictions(tmp_path / "out")] == ["1048000", "1048001"]
    (tmp_path / "q.jsonl").write_text(
        '{"_id": "1048000", "text": "kalo terlo?"}\n{"_id": "1048001", "text": "mishami?"}'
    )
    run(world, tmp_path / "q.jsonl", tmp_path / "beir")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "beir").read_bytes()
    assert (result.format, result.fields) == ("tsv", {"id": "column 1", "question": "column 2"})


def test_a_compressed_file_is_answered_as_the_file_is(
    world: Path, tmp_path: Path, expected: list[dict[str, Any]]
) -> None:
    (tmp_path / "q.gz").write_bytes(gzip.compress(FILES["csv"].encode()))
    run(world, tmp_path / "q.gz", tmp_path / "q.out")
    assert predictions(tmp_path / "q.out") == expected
    run(world, "-", tmp_path / "out", stdin=io.BytesIO(gzip.compress(FILES["csv"].encode())))
    assert predictions(tmp_path / "out") == expected


# Questions too long.

TURNS = "kalo terlo?\n" + "mishami nusha " * 300 + "\nkalo kalo?"
PLAIN = "kalo terlo? " + "mishami nusha " * 300


def test_one_long_dialogue_does_not_refuse_a_file(world: Path, tmp_path: Path) -> None:
    """KILT's Wizard-of-Wikipedia has such a question; the others are answered as ever, the long one by its end."""
    file = kilt(tmp_path / "q", {"input": "kalo terlo?"}, {"input": TURNS}, {"input": "mishami?"})
    result = run(world, file, tmp_path / "out")
    assert (result.long_questions.shortened, result.long_questions.skipped) == (1, 0)
    assert result.to_json()["long_questions"] == {"shortened": 1, "skipped": 0}
    assert any("1 shortened" in note for note in result.notes)
    first, second, third = predictions(tmp_path / "out")
    tokens = len(load_model(world / "model").question_tokens([TURNS])[0])
    assert second["note"] == f"question shortened: the last {MOST - 2} of {tokens - 2:,} tokens were read"
    assert answer_of(second)
    assert "note" not in first
    few = kilt(tmp_path / "few", {"input": "kalo terlo?"}, {"id": "q2", "input": "mishami?"})
    run(world, few, tmp_path / "few.out")
    assert predictions(tmp_path / "few.out") == [first, third]
    assert [record.id for record in read_guess(tmp_path / "out")] == ["q0", "q1", "q2"], "the note is no part of KILT"


def test_a_long_question_may_be_skipped(world: Path, tmp_path: Path) -> None:
    file = kilt(tmp_path / "q", {"input": "kalo terlo?"}, {"input": TURNS}, {"input": "kalo " * 2_000})
    result = run(world, file, tmp_path / "out", long_questions="skip", report=tmp_path / "r.html")
    assert (result.long_questions.shortened, result.long_questions.skipped) == (0, 2)
    assert (result.without_candidates, result.empty) == (0, 2)
    first, second, third = predictions(tmp_path / "out")
    assert answer_of(first)
    assert second["output"] == third["output"] == [{"answer": "", "provenance": []}]
    assert second["note"].startswith("question skipped: it has ")
    assert third["note"] == "question skipped: it has 2,000 words, at most 1,024 can be read"


def test_beyond_the_files_limit_and_the_readers(world: Path, tmp_path: Path) -> None:
    file = kilt(tmp_path / "q", {"input": "kalo " * 2_000})
    assert run(world, file, tmp_path / "out").long_questions.shortened == 1
    (record,) = predictions(tmp_path / "out")
    assert record["note"] == (
        "question shortened: the first 1,024 of 2,000 words were read; "
        "question shortened: the first 462 of 1,024 tokens were read"
    )


def test_ranges_answered_by_beam_shorten_alike(world: Path, tmp_path: Path) -> None:
    file = kilt(tmp_path / "q", {"input": "kalo terlo?"}, {"input": TURNS}, {"input": PLAIN})
    run(world, file, tmp_path / "here")
    run(world, file, tmp_path / "beam", engine=Engine(), range_queries=2)
    assert (tmp_path / "beam").read_bytes() == (tmp_path / "here").read_bytes()


def test_the_rule_belongs_to_the_settings_only_where_it_matters(world: Path, tmp_path: Path) -> None:
    """Predictions of an earlier release, which knew no rule, are continued where no question is too long."""
    short = kilt(tmp_path / "short", {"input": "kalo terlo?"})
    run(world, short, tmp_path / "a")
    assert "long_questions" not in json.loads((tmp_path / "a.settings.json").read_text())
    assert run(world, short, tmp_path / "a", long_questions="keep-end").resumed == 1
    long = kilt(tmp_path / "long", {"input": PLAIN})
    run(world, long, tmp_path / "b")
    with pytest.raises(MismatchError, match=r"other settings \(long_questions"):
        run(world, long, tmp_path / "b", long_questions="keep-end")


def test_what_is_kept_is_cut_between_tokens_and_keeps_the_special_ones(world: Path) -> None:
    model = load_model(world / "model")
    mention = "kalo " * 50 + "[START_ENT] terlo [END_ENT] " + "mishami " * 50
    cases: list[tuple[LongQuestions, str, Callable[[list[int], int], list[int]]]] = [
        ("auto", TURNS, lambda ids, n: ids[-n:]),
        ("auto", PLAIN, lambda ids, n: ids[:n]),
        ("keep-end", PLAIN, lambda ids, n: ids[-n:]),
        ("keep-start", TURNS, lambda ids, n: ids[:n]),
    ]
    for rule, question, expected in cases:
        (read,) = QuestionReader(model, 20, rule).read([Query(id="a", question=question, place="")])
        (whole,) = model.question_tokens([question])
        body = whole[1:-1].tolist()
        assert read.tokens.tolist() == [whole[0], *expected(body, 18), whole[-1]]
    (read,) = QuestionReader(model, 40, "auto").read([Query(id="a", question=mention, place="")])
    asked = model.tokenizer.encode_plain(["[START_ENT] terlo"])[0].tolist()
    kept = read.tokens.tolist()
    assert any(kept[start : start + len(asked)] == asked for start in range(len(kept)))


def test_a_model_without_room_for_a_question_is_refused(world: Path) -> None:
    with pytest.raises(ModelError, match="leave room for 2 tokens of a question"):
        QuestionReader(load_model(world / "model"), 2, "auto")


# Provenance.


@pytest.fixture
def page(world: Path) -> dict[str, object]:
    (passage,) = Memory.open(world / "memory").texts([3])
    return {
        "wikipedia_id": int(passage.article_id),
        "start_paragraph_id": passage.start_paragraph_id,
        "end_paragraph_id": passage.end_paragraph_id,
    }


def test_a_record_without_provenance_is_answered_emptily_and_counted(
    world: Path, tmp_path: Path, page: dict[str, object]
) -> None:
    file = kilt(
        tmp_path / "q",
        {"input": "kalo?", "output": [{"answer": "x", "provenance": [page]}]},
        {"input": "kalo?", "output": [{"answer": "x"}]},
        {"input": "kalo?"},
    )
    result = run(world, file, tmp_path / "out", candidates_from="provenance")
    assert (result.without_provenance, result.without_candidates) == (2, 2)
    assert any(note.startswith("2 records without provenance") for note in result.notes)
    first, second, third = predictions(tmp_path / "out")
    assert {each["wikipedia_id"] for each in first["output"][0]["provenance"]} == {str(page["wikipedia_id"])}
    assert "note" not in first
    for record in (second, third):
        assert record["output"] == [{"answer": "", "provenance": []}]
        assert record["note"] == "the record has no provenance to answer from"


def test_provenance_that_the_memory_lacks_is_counted_and_the_rest_is_read(
    world: Path, tmp_path: Path, page: dict[str, object]
) -> None:
    absent = {"wikipedia_id": "77"}
    file = kilt(
        tmp_path / "q",
        {"input": "kalo?", "output": [{"provenance": [absent, page]}]},
        {"input": "kalo?", "output": [{"provenance": [absent]}]},
        {"input": "kalo?", "output": [{"provenance": [page]}]},
    )
    result = run(world, file, tmp_path / "out", candidates_from="provenance", range_queries=2, engine=Engine())
    assert (result.missing, result.without_provenance) == (2, 0)
    assert result.to_json()["provenance_not_in_memory"] == 2
    first, second, third = predictions(tmp_path / "out")
    assert first["output"] == third["output"]
    assert first["note"] == "the memory lacks 1 of the 2 places of its provenance"
    assert second["output"] == [{"answer": "", "provenance": []}]
    assert second["note"] == "the memory lacks 1 of the 1 places of its provenance"
    assert "note" not in third


def test_a_file_without_any_provenance_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of its 1 records has provenance"):
        run(world, kilt(tmp_path / "q", {"input": "kalo?"}), tmp_path / "out", candidates_from="provenance")


# Numbers of passages.


def test_fewer_candidates_are_all_selected(world: Path, tmp_path: Path) -> None:
    file = kilt(tmp_path / "q", {"input": "kalo terlo mishami?"})
    run(world, file, tmp_path / "out", candidates=3, select=None)
    (record,) = predictions(tmp_path / "out")
    assert len(record["output"][0]["provenance"]) == 3
    assert json.loads((tmp_path / "out.settings.json").read_text())["select"] == 3


# The command.


def test_the_command_says_how_the_file_was_read_and_what_was_long(world: Path, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(f'nummer,frage\nn1,kalo?\nn2,"{TURNS}"\n')
    arguments = ["answer", tmp_path / "q.csv", "--memory", world / "memory", "--model", world / "model"]
    arguments += ["--output", tmp_path / "out", "--candidates", 4, "--max-answer-tokens", 2]
    arguments += ["--field", "question=frage", "--field", "id=nummer"]
    result = CliRunner().invoke(glimmer, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    assert "q.csv: csv, 2 queries (id from nummer, question from frage)" in "".join(result.stderr.split("\n"))
    assert "1 shortened" in next(line for line in result.stdout.splitlines() if "long questions" in line)
    again = CliRunner().invoke(glimmer, [*map(str, arguments), "--json"], catch_exceptions=False)
    record = json.loads(again.stdout)
    assert (record["format"], record["fields"]) == ("csv", {"id": "nummer", "question": "frage"})
