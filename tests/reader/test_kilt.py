"""Gold and guess files are read strictly and predictions are written as KILT has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glimmer import InputError
from glimmer.reader.formats import kilt


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_real_multi_provenance_and_dialogue_files_are_read(kilt_files: Path) -> None:
    hotpot = kilt.read_gold(kilt_files / "hotpotqa-dev-kilt.head20.jsonl")
    dialogues = kilt.read_gold(kilt_files / "wow-dev-kilt.head20.jsonl")
    assert len(hotpot) == len(dialogues) == 20
    assert [page.title for page in hotpot[0].outputs[0].provenance or ()] == ["Scott Derrickson", "Ed Wood"]
    assert "\n" in (dialogues[0].question or "")
    assert hotpot[0].place.endswith("hotpotqa-dev-kilt.head20.jsonl:1")


def test_ids_and_page_ids_compare_as_stripped_strings(tmp_path: Path) -> None:
    output = [{"answer": " x ", "provenance": [{"wikipedia_id": 12}, {"wikipedia_id": None}]}]
    (record,) = kilt.read_gold(write(tmp_path / "gold", {"id": 7, "input": "?", "output": output}))
    assert record.id == "7"
    assert [page.wikipedia_id for page in record.outputs[0].provenance or ()] == ["12", None]
    assert kilt.gold_answers(record.outputs) == ["x"]


def test_every_bad_line_is_named_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path / "gold.jsonl",
        {"id": "1", "output": []},
        "{not json",
        "",
        ["a list"],
        {"output": []},
        {"id": "1 ", "output": []},
        {"id": "2"},
        {"id": "3", "output": [{"provenance": {}}]},
        {"id": True, "output": []},
    )
    with pytest.raises(InputError) as caught:
        kilt.read_gold(path)
    message = str(caught.value)
    for line, reason in {
        2: "not valid JSON",
        4: "expected a JSON object, found a list",
        5: "no id",
        6: "id '1' is already used at line 1",
        7: "no output",
        8: "provenance must be a list",
        9: "id must be a string",
    }.items():
        assert f"gold.jsonl:{line}: {reason}" in message
    assert message.startswith("7 bad records")


def test_many_bad_lines_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"50 bad records[\s\S]*… and 30 more"):
        kilt.read_gold(write(tmp_path / "gold", *["{}"] * 50))


def test_broken_utf8_is_told_from_broken_json(tmp_path: Path) -> None:
    path = tmp_path / "gold"
    path.write_bytes(b'{"id": "1", "output": [{"answer": "caf\xe9"}]}\n')
    with pytest.raises(InputError, match=r"gold:1: not valid UTF-8 at byte 38"):
        kilt.read_gold(path)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ([], "exactly one output, this one has 0"),
        ([{"answer": "a"}, {"answer": "b"}], "exactly one output, this one has 2"),
        ([{"provenance": []}], "the output has no answer"),
        ([{"answer": ["a"]}], "an answer must be a string, not a list"),
    ],
)
def test_a_guess_has_one_output_with_an_answer(tmp_path: Path, output: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        kilt.read_guess(write(tmp_path / "guess", {"id": "1", "output": output}))


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        kilt.read_gold(tmp_path / "nothing")


def test_a_prediction_reads_back_as_written(tmp_path: Path) -> None:
    page = kilt.Provenance(
        wikipedia_id="5", title="T\n", start_paragraph_id=1, end_paragraph_id=2, text="ü", score=0.5, passage_id="ab"
    )
    line = kilt.prediction_line(id="q", answer="a\nb", provenance=[page, kilt.Provenance(wikipedia_id="6")])
    assert line.count(b"\n") == 1
    assert line.startswith(b'{"id":"q",')
    path = tmp_path / "guess"
    path.write_bytes(line)
    (record,) = kilt.read_guess(path)
    assert record.outputs == (kilt.Output(answer="a\nb", provenance=(page, kilt.Provenance(wikipedia_id="6"))),)
    assert json.loads(line)["output"][0]["provenance"][1] == {"wikipedia_id": "6"}
