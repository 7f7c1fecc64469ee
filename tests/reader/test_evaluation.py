"""A prediction file is scored as KILT's own scorer scores it."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest

from glimmer import InputError, UsageError
from glimmer.reader.formats.evaluation import score_files, task_of_file


def write(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def gold(id: str, answer: str | None = "yes", page: str | None = "1", **more: object) -> dict[str, object]:
    output: dict[str, object] = {}
    if answer is not None:
        output["answer"] = answer
    if page is not None:
        output["provenance"] = [{"wikipedia_id": page, "title": f"Page {page}"}]
    return {"id": id, "input": "?", "output": [output], **more}


def guess(id: str, answer: str = "yes", *pages: str) -> dict[str, object]:
    return {"id": id, "output": [{"answer": answer, "provenance": [{"wikipedia_id": page} for page in pages]}]}


def test_it_agrees_with_kilts_scorer(kilt_files: Path) -> None:
    expected = json.loads((kilt_files / "expected.json").read_text())
    found = score_files(gold=kilt_files / "gold.jsonl", guess=kilt_files / "guess.jsonl").to_json()
    for group in expected.values():
        for name, value in group.items():
            assert found[name] == pytest.approx(value, abs=1e-9), name
    assert found["questions"] == 300
    assert "recall@1" not in found, "KILT has recall for k > 1 alone"


def test_a_kilt_score_counts_only_where_the_pages_come_first(tmp_path: Path) -> None:
    found = score_files(
        gold=write(tmp_path / "gold", gold("a"), gold("b"), gold("c")),
        guess=write(tmp_path / "guess", guess("a", "yes", "1"), guess("b", "yes", "2", "1"), guess("c", "no", "1")),
    ).metrics
    assert found["em"] == pytest.approx(2 / 3)
    assert found["KILT-em"] == pytest.approx(1 / 3)
    assert found["Rprec"] == pytest.approx(2 / 3)
    assert found["recall@5"] == 1


def test_an_empty_answer_scores_nothing_but_its_pages_count(tmp_path: Path) -> None:
    found = score_files(
        gold=write(tmp_path / "gold", gold("a", answer="")), guess=write(tmp_path / "guess", guess("a", " ", "1"))
    )
    assert (found.metrics["em"], found.metrics["Rprec"]) == (0, 1)
    assert "1 record without an answer" in found.warnings[0]


def test_the_order_of_the_guesses_does_not_matter(tmp_path: Path) -> None:
    records = [gold(str(n), answer=str(n)) for n in range(20)]
    guesses = [guess(str(n), str(n)) for n in range(20)]
    file = write(tmp_path / "gold", *records)
    assert score_files(gold=file, guess=write(tmp_path / "guess", *reversed(guesses))).metrics["em"] == 1


def test_a_missing_prediction_is_an_error_and_an_extra_one_a_warning(tmp_path: Path) -> None:
    file = write(tmp_path / "gold", gold("a"), gold("b"))
    with pytest.raises(InputError, match=r"no prediction for b \(1 of 2 gold ids; the first is at .*gold:2\)"):
        score_files(gold=file, guess=write(tmp_path / "few", guess("a")))
    many = write(tmp_path / "many", guess("a"), guess("z"), guess(" b "))
    (warning,) = score_files(gold=file, guess=many).warnings
    assert warning.startswith(f"{many}: 1 prediction for")
    assert ": z" in warning


def test_duplicate_ids_are_errors(tmp_path: Path) -> None:
    once, twice = write(tmp_path / "once", guess("a")), write(tmp_path / "twice", guess("a"), guess("a"))
    with pytest.raises(InputError, match="already used at line 1"):
        score_files(gold=write(tmp_path / "gold", gold("a")), guess=twice)
    with pytest.raises(InputError, match="already used at line 1"):
        score_files(gold=write(tmp_path / "gold", gold("a"), gold("a")), guess=once)


def test_tasks_named_by_the_records_are_averaged_apart(tmp_path: Path) -> None:
    found = score_files(
        gold=write(tmp_path / "gold", gold("a", task="nq"), gold("b", task="fever"), gold("c", task="nq"), gold("d")),
        guess=write(tmp_path / "guess", guess("a"), guess("b", "no"), guess("c", "no"), guess("d", "no")),
    )
    assert [(name, scores.questions, scores.metrics["em"]) for name, scores in found.tasks.items()] == [
        ("nq", 2, 0.5),
        ("fever", 1, 0.0),
    ]
    assert found.table(["em", "f1"])[-1] == ("all", 4, (0.25, 0.25))
    assert found.to_json()["tasks"]["nq"]["em"] == 0.5
    assert any("1 gold records name no task" in warning for warning in found.warnings)


def test_a_directory_has_a_task_a_file(tmp_path: Path) -> None:
    for name in ("gold", "guess"):
        (tmp_path / name).mkdir()
    for task, answer in (("nq", "yes"), ("hotpotqa", "no")):
        write(tmp_path / "gold" / f"{task}-dev-kilt.jsonl", gold("a"))
        write(tmp_path / "guess" / f"{task}-dev-kilt.jsonl", guess("a", answer))
    found = score_files(gold=tmp_path / "gold", guess=tmp_path / "guess")
    assert {name: scores.metrics["em"] for name, scores in found.tasks.items()} == {"nq": 1, "hotpotqa": 0}
    (tmp_path / "guess" / "nq-dev-kilt.jsonl").unlink()
    with pytest.raises(InputError, match=r"no predictions for nq-dev-kilt\.jsonl"):
        score_files(gold=tmp_path / "gold", guess=tmp_path / "guess")


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("nq-dev-kilt.jsonl", "nq"),
        ("wow-test_without_answers-kilt.jsonl", "wow"),
        ("structured_zeroshot-train-kilt.jsonl", "structured_zeroshot"),
        ("fever.jsonl", "fever"),
        ("dev.jsonl", "dev"),
    ],
)
def test_a_file_name_says_its_task(name: str, task: str) -> None:
    assert task_of_file(Path(name)) == task


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty")
    with pytest.raises(InputError, match="no gold record"):
        score_files(gold=empty, guess=empty)
    with pytest.raises(UsageError, match="is a directory"):
        score_files(gold=empty, guess=tmp_path)
    with pytest.raises(UsageError, match="positive"):
        score_files(gold=empty, guess=empty, ranks=[0])
    file = write(tmp_path / "gold", gold("a"))
    with pytest.raises(UsageError, match="no metric 'bleu'"):
        score_files(gold=file, guess=write(tmp_path / "guess", guess("a"))).table(["bleu"])


# Gold of any format; what KILT's own retrieval writes.


def retrieved(id: str, *pages: str, gold: tuple[str, ...] = ()) -> dict[str, object]:
    """A line as KILT's retrieval baselines write it: scores as strings, and copies of the gold answers at the end."""
    found = [{"score": "81.5", "text": "t", "wikipedia_title": f"Page {page}", "wikipedia_id": page} for page in pages]
    return {"id": id, "input": "?", "output": [{"provenance": found}, *({"answer": answer} for answer in gold)]}


def test_kilts_own_retrieval_is_scored_by_its_pages_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "gold", gold("a", page="1"), gold("b", page="2"))
    guesses = write(
        tmp_path / "guess", retrieved("a", "1", "9", gold=("yes",)), retrieved("b", "9", "2", gold=("yes",))
    )
    found = score_files(gold=file, guess=guesses)
    assert found.metrics["Rprec"] == 0.5
    assert found.metrics["recall@5"] == 1
    assert found.metrics["em"] == 0, "the gold answer copied into the file is no answer of the system's"
    assert any("2 predictions with pages but no answer" in warning for warning in found.warnings)


def test_pages_of_several_outputs_count_in_their_order(tmp_path: Path) -> None:
    pages = [{"provenance": [{"wikipedia_id": page}]} for page in ("9", "1")]
    alone: dict[str, object] = {"id": "a", "output": pages}
    answered: dict[str, object] = {"id": "a", "output": [{"answer": "yes"}, *pages]}
    behind: dict[str, object] = {"id": "a", "output": [pages[0], {"answer": "yes", **pages[1]}]}
    file = write(tmp_path / "gold", gold("a"))
    for record, em in ((alone, 0), (answered, 1), (behind, 1)):
        metrics = score_files(gold=file, guess=write(tmp_path / "guess", record), ranks=[1, 2]).metrics
        assert (metrics["em"], metrics["Rprec"], metrics["precision@2"]) == (em, 0, 0.5)


@pytest.mark.parametrize("score", ["high", "nan", "", "inf"])
def test_a_score_that_is_no_number_is_told(tmp_path: Path, score: str) -> None:
    record = retrieved("a", "1")
    record["output"][0]["provenance"][0]["score"] = score  # type: ignore[index]
    with pytest.raises(InputError, match=f"guess:1: score must be a number, not '{score}'"):
        score_files(gold=write(tmp_path / "gold", gold("a")), guess=write(tmp_path / "guess", record))


def test_gold_may_be_a_table_and_is_named_by_fields_where_it_must(tmp_path: Path) -> None:
    (tmp_path / "gold.csv").write_text("nr,frage,antwort\na,who?,yes\nb,what?,\"['no', 'never']\"\n")
    guesses = write(tmp_path / "guess", guess("a", "yes"), guess("b", "never"))
    fields = {"question": "frage", "id": "nr", "answers": "antwort"}
    assert score_files(gold=tmp_path / "gold.csv", guess=guesses, fields=fields).metrics["em"] == 1
    with pytest.raises(InputError, match="the columns nr, frage, antwort"):
        score_files(gold=tmp_path / "gold.csv", guess=guesses)


def test_a_gold_file_without_answers_is_told(tmp_path: Path) -> None:
    (tmp_path / "gold.txt").write_text("who?\nwhat?\n")
    with pytest.raises(InputError, match=r"has no answers to compare with \(it was read as .*: text, 2 queries"):
        score_files(gold=tmp_path / "gold.txt", guess=write(tmp_path / "guess", guess("1"), guess("2")))


def test_a_gold_question_may_be_as_long_as_it_is(tmp_path: Path) -> None:
    gold_file = write(tmp_path / "gold", {"question": "who " * 2_000, "answer": ["yes"]})
    assert score_files(gold=gold_file, guess=write(tmp_path / "guess", guess("0"))).metrics["em"] == 1


def test_compressed_files_and_standard_input_are_read(tmp_path: Path) -> None:
    file, guesses = write(tmp_path / "gold", gold("a")), write(tmp_path / "guess", guess("a", "yes", "1"))
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(guesses.read_bytes()))
    for found in (
        score_files(gold=file, guess=packed),
        score_files(gold=file, guess="-", stdin=io.BytesIO(packed.read_bytes())),
        score_files(gold=Path("-"), guess=guesses, stdin=io.BytesIO(file.read_bytes())),
    ):
        assert (found.metrics["em"], found.metrics["Rprec"]) == (1, 1)
    with pytest.raises(UsageError, match="cannot both be standard input"):
        score_files(gold="-", guess="-")


def test_a_directory_of_compressed_files_has_a_task_a_file(tmp_path: Path) -> None:
    for name, record in (("gold", gold("a")), ("guess", guess("a"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nq-dev-kilt.jsonl.gz").write_bytes(gzip.compress(json.dumps(record).encode()))
    assert list(score_files(gold=tmp_path / "gold", guess=tmp_path / "guess").tasks) == ["nq"]
