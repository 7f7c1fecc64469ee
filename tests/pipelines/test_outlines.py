"""Outlines of TREC CAR become questions in KILT's format, with judged paragraphs as provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cbor2
import pytest
from click.testing import CliRunner

import glimmer
from glimmer import InputError
from glimmer.pipelines.cli.group import glimmer as main
from glimmer.pipelines.corpus.car_file import OUTLINES, PARAGRAPHS
from glimmer.reader.formats.queries import open_queries

FERNS = [
    0,
    "Ferns",
    b"enwiki:Ferns",
    [[0, "Uses", b"Uses", [[0, "As food", b"As%20food", []]]], [0, "History", b"History", []]],
]
MOSS = [0, "Moss", b"enwiki:Moss", []]
QRELS = (
    "enwiki:Ferns/Uses/As%20food 0 p1 1\nenwiki:Ferns/Uses/As%20food 0 p2 0\nenwiki:Ferns/Uses/As%20food 0 p3 2\n\n"
    "enwiki:Ferns/History 0 p4 0\nenwiki:Gone/History 0 p5 1\n"
)


@pytest.fixture
def outlines(tmp_path: Path) -> Path:
    path = tmp_path / "outlines.cbor"
    path.write_bytes(cbor2.dumps(["CAR", [OUTLINES], {}]) + b"\x9f" + cbor2.dumps(FERNS) + cbor2.dumps(MOSS) + b"\xff")
    return path


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_section_is_a_question_and_every_page_without_one(outlines: Path, tmp_path: Path) -> None:
    made = glimmer.outline_questions(outlines=outlines, output=tmp_path / "q.jsonl")
    assert (made.pages, made.questions, made.judged) == (2, 4, 0)
    assert records(tmp_path / "q.jsonl") == [
        {"id": "enwiki:Ferns/Uses", "input": "Ferns / Uses"},
        {"id": "enwiki:Ferns/Uses/As%20food", "input": "Ferns / Uses / As food"},
        {"id": "enwiki:Ferns/History", "input": "Ferns / History"},
        {"id": "enwiki:Moss", "input": "Moss"},
    ]


def test_qrels_choose_the_topics_and_become_provenance(outlines: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text(QRELS)
    made = glimmer.outline_questions(outlines=outlines, output=tmp_path / "q.jsonl", qrels=tmp_path / "qrels")
    assert (made.questions, made.judged, made.unmatched) == (2, 1, 1)
    food, history = records(tmp_path / "q.jsonl")
    assert food["output"] == [{"provenance": [{"wikipedia_id": "p1"}, {"wikipedia_id": "p3"}]}]
    assert "output" not in history
    assert open_queries(tmp_path / "q.jsonl").with_gold == 1


def test_the_same_topic_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "outlines.cbor"
    path.write_bytes(cbor2.dumps(MOSS) * 2)
    (tmp_path / "qrels").write_text("enwiki:Moss 0 p1 1\n")
    made = glimmer.outline_questions(outlines=path, output=tmp_path / "q.jsonl", qrels=tmp_path / "qrels")
    assert (made.pages, made.questions) == (2, 1)


@pytest.mark.parametrize(
    ("qrels", "message"),
    [("enwiki:Ferns 0 p1\n", "qrels:1: not qrels"), ("enwiki:Ferns 0 p1 high\n", "not qrels"), ("x 0 p 1\n", "topic")],
)
def test_wrong_qrels_are_refused_and_nothing_is_written(
    outlines: Path, tmp_path: Path, qrels: str, message: str
) -> None:
    (tmp_path / "qrels").write_text(qrels)
    with pytest.raises(InputError, match=message):
        glimmer.outline_questions(outlines=outlines, output=tmp_path / "q.jsonl", qrels=tmp_path / "qrels")
    assert not (tmp_path / "q.jsonl").exists()


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "p.cbor"
    for content, message in (
        (cbor2.dumps(["CAR", [PARAGRAPHS], {}]) + b"\x9f" + cbor2.dumps([0, b"p", []]) + b"\xff", "holds paragraphs"),
        (cbor2.dumps([0, "Ferns", b"f", 7]), r"p\.cbor:1: no outline of a page: skeleton is a number"),
        (b'{"id": 1}\n', "not a CBOR file of TREC CAR"),
        (b"", "the file is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            glimmer.outline_questions(outlines=path, output=tmp_path / "q.jsonl")


def test_the_command_says_what_it_wrote(outlines: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels").write_text(QRELS)
    arguments = ["outlines", str(outlines), "--qrels", str(tmp_path / "qrels"), "--output", str(tmp_path / "q.jsonl")]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0
    assert "2 questions of 2 pages, 1 with provenance" in shown.output
    assert "1 topics of the qrels are in no outline" in shown.output
    found = CliRunner().invoke(main, [*arguments, "--json"])
    assert json.loads(found.stdout)["unmatched"] == 1
