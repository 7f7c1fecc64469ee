"""Query files as people have them: every usual data set is read with its ids and answers, none of it as plain text."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from glimmer import InputError, UsageError
from glimmer.reader.formats.kilt import gold_answers
from glimmer.reader.formats.queries import QueryFile, open_queries
from glimmer.reader.formats.query_fields import literal_answers, parse_field_options

WHO, WHEN = "who built the harbour?", 'when, "roughly", was the bridge finished?'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "queries"


def opened(path: Path, content: str | bytes, **options: Any) -> QueryFile:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_queries(path, **options)


def told(queries: QueryFile) -> list[tuple[str, str, list[str]]]:
    """(id, question, answers) of each query."""
    return [(query.id, query.question, gold_answers(query.outputs or ())) for query in queries]


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


# Each data set in its own shape.


def test_ms_marco_has_an_id_and_a_question_between_tabs(file: Path) -> None:
    queries = opened(file, f"1048000\t{WHO}\n1048001\t{WHEN}\n")
    assert told(queries) == [("1048000", WHO, []), ("1048001", WHEN, [])]
    assert queries.format == "tsv"
    assert queries.fields == {"id": "column 1", "question": "column 2"}


def test_ms_marco_in_a_script_without_spaces(file: Path) -> None:
    assert told(opened(file, "7\t灯台はどこ\n8\t1880年の橋\n")) == [("7", "灯台はどこ", []), ("8", "1880年の橋", [])]


def test_one_ms_marco_query_is_enough(file: Path) -> None:
    assert told(opened(file, f"7\t{WHO}")) == [("7", WHO, [])]


def test_ms_marco_with_a_header(file: Path) -> None:
    queries = opened(file, f'qid\tquery\n1048000\t{WHO}\n1048001\t"Hey" was sung by whom\n')
    assert told(queries) == [("1048000", WHO, []), ("1048001", '"Hey" was sung by whom', [])]
    assert queries.fields == {"id": "qid", "question": "query"}


def test_dpr_has_a_question_and_a_list_of_answers_between_tabs(file: Path) -> None:
    queries = opened(file, f"""{WHO}\t['Ruth Calder', "Ruth's"]\n{WHEN}\t["1880"]\n""")
    assert told(queries) == [("1", WHO, ["Ruth Calder", "Ruth's"]), ("2", WHEN, ["1880"])]
    assert queries.with_gold == 2
    assert queries.fields["answers"] == "column 2"


def test_dpr_as_pythons_csv_writer_quotes_it(file: Path) -> None:
    content = io.StringIO()
    csv.writer(content, delimiter="\t").writerows([(WHO, ["Ruth's", "R"]), (WHEN, ["1880"])])
    assert told(opened(file, content.getvalue())) == [("1", WHO, ["Ruth's", "R"]), ("2", WHEN, ["1880"])]


def test_a_row_of_dpr_without_its_list_is_named(file: Path) -> None:
    good = "".join(f"question {n}?\t['a']\n" for n in range(200))  # beyond the lines that are looked at
    with pytest.raises(InputError, match=r"queries:201: 'Paris' is not a list of answers"):
        opened(file, good + "where?\tParis\n")


def test_a_csv_with_query_and_qid(file: Path) -> None:
    queries = opened(file, f"qid,query\n1,{WHO}\n2,what?\n")
    assert told(queries) == [("1", WHO, []), ("2", "what?", [])]
    assert queries.description == f"{file}: csv, 2 queries (id from qid, question from query)"


def test_excels_first_line_says_the_delimiter(file: Path) -> None:
    queries = opened(file, f"sep=;\r\nid;question;answer\r\n1;{WHO};Ruth\r\n")
    assert told(queries) == [("1", WHO, ["Ruth"])]
    assert queries.format == "csv"
    assert next(iter(queries)).place == f"{file}:3"


def test_a_column_of_answers_holds_a_list_or_one_answer(file: Path) -> None:
    content = "question,golden_answers\nwho?,\"['a', 'b']\"\nwhat?,one answer\n"
    assert told(opened(file, content)) == [("1", "who?", ["a", "b"]), ("2", "what?", ["one answer"])]


def test_a_json_list_of_strings(file: Path) -> None:
    for content in (json.dumps([WHO, WHEN]), json.dumps([WHO, WHEN], indent=2)):
        queries = opened(file, content)
        assert told(queries) == [("0", WHO, []), ("1", WHEN, [])]
        assert queries.format == "json"


def test_nq_open(file: Path) -> None:
    queries = opened(file, lines({"question": WHO, "answer": ["Ruth", "R"]}, {"question": WHEN, "answer": ["1880"]}))
    assert told(queries) == [("0", WHO, ["Ruth", "R"]), ("1", WHEN, ["1880"])]
    assert queries.description.endswith("(id from position (from 0), question from question, answers from answer)")


def test_hotpotqa(file: Path) -> None:
    records = [
        {"_id": "h0", "question": WHO, "answer": "Ruth", "supporting_facts": [["Ruth", 0]], "context": [["R", []]]}
    ]
    assert told(opened(file, json.dumps(records))) == [("h0", WHO, ["Ruth"])]


def test_flashrag(file: Path) -> None:
    record = {"id": "test_0", "question": WHO, "golden_answers": ["Ruth"], "metadata": {}}
    assert told(opened(file, lines(record))) == [("test_0", WHO, ["Ruth"])]


def test_beir(file: Path) -> None:
    queries = opened(file, lines({"_id": "PLAIN-0", "text": WHO, "metadata": {}, "title": ""}))
    assert told(queries) == [("PLAIN-0", WHO, [])]


def test_squad_and_triviaqa_answers(file: Path) -> None:
    squad = {"id": "s", "title": "T", "context": "c", "question": WHO, "answers": {"text": ["a"], "answer_start": [1]}}
    trivia = {"question_id": "t", "question": WHO, "answer": {"value": "a", "aliases": ["A", "b"], "type": "x"}}
    assert told(opened(file, lines(squad))) == [("s", WHO, ["a"])]
    assert told(opened(file, lines(trivia))) == [("t", WHO, ["a", "A", "b"])]


def test_numbers_are_answers_too(file: Path) -> None:
    assert told(opened(file, lines({"question": WHEN, "answer": 1880}))) == [("0", WHEN, ["1880"])]


def test_kilt_and_fid_are_still_themselves(file: Path) -> None:
    kilt = opened(file, lines({"id": "a", "input": WHO, "output": [{"answer": "Ruth"}]}))
    assert (kilt.format, told(kilt)) == ("kilt", [("a", WHO, ["Ruth"])])
    fid = opened(file, lines({"question": WHO, "target": "Ruth", "ctxs": [{"id": "1", "text": "t"}]}))
    assert (fid.format, told(fid)) == ("fid", [("0", WHO, ["Ruth"])])
    assert fid.fields["passages"] == "ctxs"


# Compressed files and streams.


@pytest.mark.parametrize(
    "compress", [gzip.compress, bz2.compress, lzma.compress, lambda data: zstandard.ZstdCompressor().compress(data)]
)
def test_a_compressed_file_is_the_file(file: Path, compress: Callable[[bytes], bytes]) -> None:
    content = f"1048000\t{WHO}\n1048001\t{WHEN}\n".encode()
    plain = opened(file, content)
    packed = opened(file.with_name("packed"), compress(content))
    assert told(packed) == told(plain)
    assert packed.digest == plain.digest
    assert (packed.copied, plain.copied) == (True, False)
    assert next(iter(packed)).place.endswith("packed:1")


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(gzip.compress(b'["who?", "what?"]')))
    writer.start()
    queries = open_queries(pipe)
    writer.join()
    assert [query.question for query in queries] == [query.question for query in queries] == ["who?", "what?"]


# Plain text stays plain text; a table is never taken for it.


@pytest.mark.parametrize(
    "content",
    [
        "who was first, and why?\nwhat, where, when?\nwhich of them, if any, is left?\n",
        "Tell me, please: what is 7?\nAnd this, please?\n",
        "who?\nwhat is\ta tab?\nwhere?\n",
        "what is\ta tab in the only line?\n",
        "[1] is a footnote of what?\nwho?\n",
        '["Imagine"] was sung by whom?\nwho?\n',
        "1. who was first?\n2. who was second?\n",
        "12 monkeys was directed by\n7 samurai was directed by\n",
    ],
)
def test_sentences_are_questions(file: Path, content: str) -> None:
    queries = opened(file, content)
    assert queries.format == "text"
    assert [query.question for query in queries] == [line.strip() for line in content.splitlines()]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("nummer,frage\n1,who is it?\n2,what is it?\n", "the columns nummer, frage"),
        ("sep=;\nnummer;frage\n1;who?\n", "the columns nummer, frage"),
        ("pid\tpassage\ttitle\n1\tsome text\tT\n", "the columns pid, passage, title"),
        ("who is it?\twhat is it?\nwhen is it?\twhere is it?\n", "2 columns and no header"),
        ("1048000\tD1234\n1048001\tD77\n", "2 columns and no header"),
        ("1,who is it?\n2,what is it, then?\n3,where is it?\n", "begin with a number and a delimiter"),
        ("1 0 d1 1\n1 0 d2 0\n2 0 d3 1\n", "TREC run or list of judgements"),
        ("1 Q0 d1 1 3.5 run\n1 Q0 d2 2 3.1 run\n", "TREC run"),
        ("id\ttext\ttitle\n1\tsome text\tT\n", "records with title and text are passages"),
        (lines({"id": "1", "title": "T", "text": "some text"}), "records with title and text are passages"),
        (lines({"nr": 1, "frage": "who?"}), "JSON with nr, frage: none of them is known as the question"),
        ('{\n "q1": "who?",\n "q2": "what?"\n}\n', "one JSON object over many lines"),
        ("[[1, 2], [3, 4]]", "a JSON list of neither objects nor strings"),
        (b"PAR1\x00\x01", "is a Parquet file"),
        (b"PK\x03\x04....", "an Excel workbook"),
        ("<?xml version='1.0'?><topics/>", "is XML"),
        (b"who\x00is\n", "NUL bytes"),
    ],
)
def test_what_may_be_no_question_is_refused_with_what_was_found(file: Path, content: str | bytes, found: str) -> None:
    with pytest.raises(InputError) as caught:
        opened(file, content)
    assert found in str(caught.value)


def test_a_refused_table_says_how_to_read_it_and_then_it_is_read(file: Path) -> None:
    content = "nummer,frage,antwort\na1,who is it?,\"['x', 'y']\"\nb2,what is it?,z\n"
    with pytest.raises(InputError) as caught:
        opened(file, content)
    assert "--field question=NAME" in str(caught.value)
    assert "--format text" in str(caught.value)
    fields = parse_field_options(["question=Frage", "id=nummer", "answers=antwort"])
    queries = opened(file, content, fields=fields)
    assert told(queries) == [("a1", "who is it?", ["x", "y"]), ("b2", "what is it?", ["z"])]
    assert queries.fields == {"id": "nummer", "question": "frage", "answers": "antwort"}
    assert len(opened(file, content, format="text")) == 3


def test_fields_name_json_keys(file: Path) -> None:
    content = lines({"nr": 1, "frage": "who?", "lösung": ["x"]})
    queries = opened(file, content, fields={"question": "frage", "id": "nr", "answers": "lösung"})
    assert told(queries) == [("1", "who?", ["x"])]
    corpus = lines({"id": "1", "title": "T", "text": "asked"})
    assert told(opened(file, corpus, fields={"question": "text"})) == [("1", "asked", [])]


def test_columns_without_a_header_are_named_by_number(file: Path) -> None:
    content = "who is it?\tx7\tsome answer\nwhat is it?\tx8\tother\n"
    queries = opened(file, content, fields={"question": "1", "id": "2", "answers": "3"})
    assert told(queries) == [("x7", "who is it?", ["some answer"]), ("x8", "what is it?", ["other"])]
    commas = opened(file, '1,"who, then?"\n2,what?\n', fields={"question": "2", "id": "1"})
    assert told(commas) == [("1", "who, then?", []), ("2", "what?", [])]
    with pytest.raises(InputError, match="no column 4; the first line has 3"):
        opened(file, content, fields={"question": "4"})


def test_fields_that_do_not_exist_are_told(file: Path) -> None:
    with pytest.raises(InputError, match="no key named 'frage' \\(there are: id, question\\)"):
        opened(file, lines({"id": "1", "question": "who?"}), fields={"question": "frage"})
    with pytest.raises(InputError, match="no column named 'frage'"):
        opened(file, "id,question\n1,who?\n", fields={"question": "frage"})
    with pytest.raises(UsageError, match="plain text"):
        opened(file, "who?\n", fields={"question": "frage"}, format="text")
    for option in ("question", "question=", "frage=x"):
        with pytest.raises(UsageError, match="write KIND=NAME"):
            parse_field_options([option])
    with pytest.raises(UsageError, match="given twice"):
        parse_field_options(["id=a", "id=b"])


def test_a_row_with_other_cells_is_named_not_asked(file: Path) -> None:
    """A table with a few broken rows stays a table."""
    rows = [f"{n}\tquestion number {n}?" for n in range(10)]
    rows[4] = "no tab here"
    with pytest.raises(InputError, match="queries:5: 1 cells, but the others have 2"):
        opened(file, "\n".join(rows))


def test_two_known_names_the_more_telling_counts(file: Path) -> None:
    queries = opened(file, lines({"text": "a passage", "query": "who?", "qid": "q", "target": "x", "answers": ["y"]}))
    assert told(queries) == [("q", "who?", ["y"])]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("['a', \"b's\"]", ["a", "b's"]),
        ('["a", "b"]', ["a", "b"]),
        ("[]", []),
        ("['a',]", ["a"]),
        (r"['it\'s', '\d']", ["it's", r"\d"]),
        ("[1880, 'x']", ["1880", "x"]),
        ("['a' 'b']", None),
        ("[['a']]", None),
        ("[__import__('os')]", None),
        ("['a'", None),
        ("[a]", None),
        ("[" * 100_000 + "]" * 100_000, None),
    ],
)
def test_a_list_of_answers_is_read_without_evaluating_anything(cell: str, expected: list[str] | None) -> None:
    assert literal_answers(cell) == expected


# The same questions in every format.

Records = list[tuple[str, str, list[str]]]


def _tabs(rows: Sequence[Sequence[str]]) -> str:
    return "".join("\t".join(row) + "\n" for row in rows)


def _csv(header: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str = ",", first: str = "") -> str:
    content = io.StringIO()
    writer = csv.writer(content, delimiter=delimiter)
    writer.writerow(header)
    writer.writerows(rows)
    return first + content.getvalue()


WRITERS: dict[str, Callable[[Records], str]] = {
    "ms marco": lambda r: _tabs([(i, q) for i, q, _ in r]),
    "ms marco with header": lambda r: _tabs([("qid", "query"), *((i, q) for i, q, _ in r)]),
    "dpr": lambda r: _tabs([(q, repr(a)) for _, q, a in r]),
    "dpr json": lambda r: _tabs([(q, json.dumps(a)) for _, q, a in r]),
    "dpr with ids": lambda r: _tabs([(i, q, repr(a)) for i, q, a in r]),
    "csv": lambda r: _csv(("qid", "query", "answers"), [(i, q, repr(a)) for i, q, a in r]),
    "csv semicolons": lambda r: _csv(("id", "question"), [(i, q) for i, q, _ in r], ";"),
    "excel": lambda r: _csv(("id", "question", "answer"), [(i, q, json.dumps(a)) for i, q, a in r], ";", "sep=;\n"),
    "strings": lambda r: json.dumps([q for _, q, _ in r]),
    "nq-open": lambda r: lines(*({"question": q, "answer": a} for _, q, a in r)),
    "hotpotqa": lambda r: json.dumps([{"_id": i, "question": q, "answer": a[0]} for i, q, a in r]),
    "flashrag": lambda r: lines(*({"id": i, "question": q, "golden_answers": a, "metadata": {}} for i, q, a in r)),
    "beir": lambda r: lines(*({"_id": i, "text": q, "metadata": {}} for i, q, _ in r)),
    "fid": lambda r: json.dumps([{"id": i, "question": q, "answers": a} for i, q, a in r], indent=1),
    "kilt": lambda r: lines(*({"id": i, "input": q, "output": [{"answer": x} for x in a]} for i, q, a in r)),
}
WITHOUT_IDS = ("dpr", "dpr json", "strings", "nq-open")
WITHOUT_ANSWERS = ("ms marco", "ms marco with header", "csv semicolons", "strings", "beir")

_WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.sampled_from("\"',;|"), min_size=1)
_ANSWERS = st.lists(_WORDS.map(lambda word: word.strip("\"'[] ") or "x"), min_size=1, max_size=3, unique=True)


def test_a_table_that_begins_like_json_is_read_when_it_is_named(file: Path) -> None:
    content = "{x} is what?\t['a']\nand this?\t['b']\n"
    with pytest.raises(InputError, match="not valid JSON"):
        opened(file, content)
    assert told(opened(file, content, format="tsv")) == [("1", "{x} is what?", ["a"]), ("2", "and this?", ["b"])]


@pytest.mark.parametrize("format", WRITERS)
@settings(max_examples=40, deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.tuples(st.just("what"), _WORDS, _WORDS).map(" ".join), _ANSWERS),
        min_size=2,
        max_size=5,
        unique_by=lambda each: each[0],
    )
)
def test_the_same_questions_come_back_from_every_format(
    format: str, asked: list[tuple[str, list[str]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    records = [(f"q-{n}", question, answers) for n, (question, answers) in enumerate(asked)]
    path = tmp_path_factory.getbasetemp() / "every"
    found = told(opened(path, WRITERS[format](records)))
    first = 1 if format.startswith("dpr") else 0
    for number, ((id_, question, answers), got) in enumerate(zip(records, found, strict=True)):
        assert got[0] == (str(number + first) if format in WITHOUT_IDS else id_)
        assert got[1] == question.strip()
        if format == "hotpotqa":
            answers = answers[:1]
        assert got[2] == ([] if format in WITHOUT_ANSWERS else answers)
