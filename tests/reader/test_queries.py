"""Query files of every kind are checked whole, then streamed from any place."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import Wikipedia

from glimmer import InputError, StorageError, UsageError
from glimmer.reader.formats import query_json
from glimmer.reader.formats.queries import MARK_EVERY, MAX_QUESTION_WORDS, Candidate, Query, open_queries


def save(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def read(path: Path, content: str | bytes, **options: Any) -> list[Query]:
    return list(open_queries(save(path, content), **options))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "queries"


def test_kilt_lines_keep_their_gold(file: Path) -> None:
    output = [{"answer": "x", "provenance": [{"wikipedia_id": "7", "title": "Seven", "start_paragraph_id": 2}]}]
    (query,) = read(file, lines({"id": " a ", "input": "who?\n", "output": output, "task": "nq"}))
    assert (query.id, query.question, query.task) == ("a", "who?", "nq")
    assert query.outputs is not None
    assert query.outputs[0].answer == "x"
    assert query.candidates is None, "gold provenance is not handed to the reader unless asked"
    assert query.place == f"{file}:1"


def test_kilt_provenance_serves_as_candidates_when_asked(file: Path) -> None:
    pages = [{"wikipedia_id": "7", "title": "Seven", "start_paragraph_id": 2, "end_paragraph_id": 3}]
    content = lines({"id": "a", "input": "?", "output": [{"provenance": pages}, {"answer": "x", "provenance": pages}]})
    (query,) = read(file, content, provenance_as_candidates=True)
    assert query.candidates == (Candidate(title="Seven", wikipedia_id="7", start_paragraph_id=2, end_paragraph_id=3),)
    with pytest.raises(InputError, match="none of its 1 records has provenance to take candidates from"):
        read(file, lines({"id": "a", "input": "?"}), provenance_as_candidates=True)
    with pytest.raises(UsageError, match="only KILT records"):
        read(file, "plain text", provenance_as_candidates=True)


def test_real_kilt_files_are_read(kilt_files: Path, wikipedia: Wikipedia) -> None:
    dialogues = open_queries(kilt_files / "wow-dev-kilt.head20.jsonl")
    assert (dialogues.format, dialogues.count, dialogues.with_gold) == ("kilt", 20, 20)
    assert dialogues.longest < MAX_QUESTION_WORDS
    assert open_queries(wikipedia.questions).count == len(wikipedia.questions.read_text(encoding="utf-8").splitlines())


FID = [
    {
        "id": "a",
        "question": "who?",
        "target": "x",
        "answers": ["x", "y"],
        "ctxs": [{"id": "1", "title": "T", "text": "é"}],
    },
    {"question": "what?", "target": "z"},
    {"id": 9, "question": "brought by id", "passage_ids": ["p1", "p2"]},
]


@pytest.mark.parametrize(
    "content",
    [
        lines(*FID),
        json.dumps(FID),
        json.dumps(FID, indent=2),
        json.dumps(FID, ensure_ascii=False),
        "\ufeff" + lines(*FID),
    ],
)
def test_fid_comes_as_a_list_or_one_a_line(file: Path, content: str) -> None:
    queries = open_queries(save(file, content))
    first, second, third = queries
    assert queries.format == "fid"
    assert (first.id, second.id, third.id) == ("a", "1", "9"), "without ids FiD counts from 0"
    assert [output.answer for output in first.outputs or ()] == ["x", "y"]
    assert [output.answer for output in second.outputs or ()] == ["z"]
    assert first.candidates == (Candidate(id="1", title="T", text="é"),)
    assert second.candidates is None
    assert third.candidates == (Candidate(id="p1"), Candidate(id="p2"))


def test_a_fid_list_of_any_size_is_read_in_chunks(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        {"id": str(n), "question": f'what is “{n}” [{{\\"', "ctxs": [{"text": "x" * n + "."}]} for n in range(200)
    ]
    content = json.dumps(records, indent=1, ensure_ascii=False)
    whole = read(file, content)
    monkeypatch.setattr(query_json, "_CHUNK_BYTES", 7)
    assert read(file, content) == whole
    assert [query.place for query in whole[:2]] == [f"{file}:2", f"{file}:11"]
    assert len(whole) == 200


def test_plain_text_has_line_numbers_for_ids(file: Path) -> None:
    queries = open_queries(save(file, "who was first?\r\n\n  [bracketed] and, commas \n\nlast"))
    assert queries.format == "text"
    assert [(query.id, query.question) for query in queries] == [
        ("1", "who was first?"),
        ("3", "[bracketed] and, commas"),
        ("5", "last"),
    ]


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_csv_has_a_question_column(file: Path, delimiter: str) -> None:
    rows = ["Id,Question,answer", 'a,"who, ""he""\nor she?",x', "", "b,what?,"]
    content = "\n".join(rows).replace(",", delimiter)
    queries = open_queries(save(file, content))
    assert queries.format == "csv"
    first, second = queries
    assert first.question == f'who{delimiter} "he"\nor she?'
    assert (first.place, second.place) == (f"{file}:2", f"{file}:5")
    assert first.outputs is not None
    assert first.outputs[0].answer == "x"
    assert [query.id for query in open_queries(save(file, "question\nwho?\nwhat?\n"))] == ["1", "2"]


def test_the_format_can_be_forced(file: Path) -> None:
    (query,) = read(file, '{"looks": "like JSON"}', format="text")
    assert query.question == '{"looks": "like JSON"}'
    with pytest.raises(InputError, match="no column named question"):
        read(file, "a,b\n1,2\n", format="csv")
    with pytest.raises(UsageError, match="no query format 'xml'"):
        open_queries(file, format="xml")


def test_every_bad_line_of_any_kind_is_named(file: Path) -> None:
    content = (
        lines({"id": "a", "input": "fine?"}).encode()
        + b'{"id": "b", "input": "caf\xe9?"}\n'
        + b"not json\n"
        + lines(
            {"id": "c"},
            {"input": "no id?"},
            {"id": "a ", "input": "again?"},
            {"id": "d", "input": "  "},
            {"id": "e", "input": "word " * 5_000},
            {"id": "f", "input": ["list"]},
            {"id": "g", "input": "?", "output": {}},
            {"id": "h", "input": "x" * 20_000},
            {"id": "", "input": "?"},
            {"id": "i", "input": "?", "passage_ids": []},
        ).encode()
    )
    with pytest.raises(InputError) as caught:
        read(file, content)
    message = str(caught.value)
    assert message.startswith(f"12 bad records in {file}:")
    for line, reason in {
        2: "not valid UTF-8",
        3: "not valid JSON",
        4: "no input",
        5: "no id",
        6: "id 'a' is already used at line 1",
        7: "the question is empty",
        8: "the question has 5,000 words; at most 1,024 are accepted",
        9: "the question must be a string",
        10: "output must be a list",
        11: "the question has 20,000 characters; at most 16,384 are accepted",
        12: "id is empty",
        13: "passage_ids is empty",
    }.items():
        assert f"{file}:{line}: {reason}" in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"question": "a"}, {"question": "b"', "not valid JSON"),
        ('[{"question": "a"},\n {"question": "b"},', "not valid JSON"),
        ('[{"question": "a"}', "the JSON list is cut off"),
        ('[{"question": "a"} {"question": "b"}]', "expected , or ]"),
        ('[{"question": "a"}]\nmore', ":2: something follows the end"),
        ('[{"question": "a"},\n{"question": b}]', ":2: not valid JSON"),
        ('[{"id": "1", "question": "a"}, {"id": "1", "question": "b"}]', "id '1' is already used at line 1"),
        ('[{"question": "a"}, 7]', "expected a JSON object, found a number"),
        ('[{"question": "a", "ctxs": [{"title": "t"}]}]', "neither id nor text"),
        ('[{"question": "a", "ctxs": [{"id": "1"}], "passage_ids": ["1"]}]', "both ctxs and passage_ids"),
        ('[{"question": "a", "answers": [["x"]]}]', "answers must be a string or a list of strings"),
        ("[" + '{"question": [' * 5_000, "nested too deeply"),
        ("[]", "holds no query"),
    ],
)
def test_a_broken_fid_list_is_told(file: Path, content: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read(file, content)
    assert reason in str(caught.value)


def test_broken_utf8_in_a_list_spoils_its_element_alone(file: Path) -> None:
    with pytest.raises(InputError, match=r"^\S+queries:2: not valid UTF-8"):
        read(file, b'[{"question": "a"},\n{"question": "caf\xe9"},\n{"question": "b"}]')


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"question,id\nwho?\n", "1 cells, but the header has 2"),
        (b'question,id\n"who?,1\nwhat?,2\n', "queries:2: not valid CSV"),
        (b"question,id\nwho\xff?,1\n", "queries:2: not valid UTF-8 at byte 3"),
        (b"question,question\na,b\n", "'question' stands twice"),
        (b"question,id\n ,1\n", "the question is empty"),
    ],
)
def test_a_broken_csv_is_told(file: Path, content: bytes, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read(file, content)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no query"),
        (b" \n\n", "holds no query"),
        ("who?".encode("utf-16"), "is UTF-16"),
        (b"\x1f\x8b\x08abc", "truncated compressed file"),
        (b"caf\xe9\n", "queries:1: not valid UTF-8"),
    ],
)
def test_files_of_no_use_are_told(file: Path, content: bytes, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        read(file, content)
    assert reason in str(caught.value)


def test_missing_files_and_directories_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_queries(tmp_path / "none")
    with pytest.raises((InputError, StorageError), match="is a directory"):
        open_queries(tmp_path)


COUNT = 2 * MARK_EVERY + 500


def _many(kind: str) -> str:
    if kind == "text":
        return "".join(f"question {n}\n" + "\n" * (n % 3) for n in range(COUNT))
    if kind == "csv":
        return "id,question\n" + "".join(f'{n},"question\n{n}"\n' for n in range(COUNT))
    if kind == "kilt":
        return "\ufeff" + lines(*({"id": str(n), "input": f"question {n}"} for n in range(COUNT)))
    records = [{"question": f"question é {n}"} for n in range(COUNT)]
    return json.dumps(records, ensure_ascii=False) if kind == "list" else json.dumps(records, indent=3)


@pytest.mark.parametrize("kind", ["text", "csv", "kilt", "list", "indented"])
def test_reading_starts_anywhere(file: Path, kind: str) -> None:
    queries = open_queries(save(file, _many(kind)))
    assert len(queries) == COUNT
    whole = list(queries)
    assert len({query.id for query in whole}) == COUNT
    for start, stop in [(0, 3), (999, 1001), (1000, 1010), (1999, 2001), (COUNT - 1, None), (COUNT, None), (5, 5)]:
        assert list(queries.read(start, stop)) == whole[start:stop]


def test_a_file_changed_after_the_check_is_told(file: Path) -> None:
    queries = open_queries(save(file, lines({"id": "a", "input": "?"}, {"id": "b", "input": "?"})))
    save(file, lines({"id": "a", "input": "?"}) + "{}\n")
    with pytest.raises(InputError, match="changed after it was checked"):
        list(queries)
    save(file, lines({"id": "a", "input": "?"}))
    with pytest.raises(InputError, match="ends after 1 queries"):
        list(queries)


def test_standard_input_is_read_twice(file: Path) -> None:
    queries = open_queries("-", stdin=io.BytesIO(b"who?\nwhat?\n"))
    copy = queries.path
    assert [query.question for query in queries] == [query.question for query in queries] == ["who?", "what?"]
    assert next(iter(queries)).place == "<stdin>:1"
    del queries
    assert not copy.exists()


def test_the_digest_names_the_queries_not_the_file(file: Path, tmp_path: Path) -> None:
    one = open_queries(save(file, lines({"id": "0", "question": "a"})))
    same = open_queries(save(tmp_path / "other", json.dumps([{"question": "a"}], indent=4)))
    different = open_queries(save(tmp_path / "third", json.dumps([{"question": "b"}])))
    assert one.digest == same.digest != different.digest


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=200)
    | st.text(alphabet="[]{}\",:\\ \n\t;|='abquestionid1é", max_size=120).map(str.encode)
)
def test_any_bytes_are_read_or_told(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = save(tmp_path_factory.getbasetemp() / "any", content)
    try:
        queries = open_queries(path)
    except InputError:
        return
    assert len(list(queries)) == queries.count
