"""A record that cannot be used still says which article it stands for, whenever that can be told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planned import plan

from glimmer.pipelines.corpus import Rejection, read_articles
from glimmer.pipelines.corpus.salvage import salvaged_id

GOOD = b'{"id": "1", "title": "T", "text": "Fine."}\n'


def rejected(path: Path) -> list[tuple[str, str]]:
    return [(r.reason, r.article_id) for r in read_articles([path]) if isinstance(r, Rejection)]


@pytest.mark.parametrize(
    ("line", "reason", "article_id"),
    [
        (b'{"id": "2", "title": "T", "text": "cut off', "broken_json", "2"),
        (b'{"title": "T", "id": 2, "text": "cut off', "broken_json", "2"),
        (b'{"id": "caf\\u00e9 \\"2\\"", "text": "cut off', "broken_json", 'café "2"'),
        (b'{"meta": {"id": "7"}, "text": "cut off', "broken_json", ""),
        (b'{"text": "he said \\"id\\": \\"7\\" and', "broken_json", ""),
        (b'{"text": "raw \x01 control", "id": "2"}', "broken_json", "2"),
        (b'{"id": "2", "text": "caf\xe9"}', "not_utf8", "2"),
        (b'{"text": "caf\xe9 and more", "id": "2"}', "not_utf8", "2"),
        (b'{"id": "2\xe9", "text": "x"}', "not_utf8", ""),
        (b'{"id": "2", "text": "\\ud800"}', "lone_surrogate", "2"),
        (b'{"text": "\\ud800", "docid": "2"}', "lone_surrogate", "2"),
        (b'{"id": "\\ud800", "text": "x"}', "lone_surrogate", ""),
        (b'{"id": "2", "title": "T"}', "missing_field", "2"),
        (b'{"id": "2", "title": "T", "text": 7}', "wrong_type", "2"),
        (b'{"id": 2, "title": "T", "text": " "}', "empty_text", "2"),
        (b'{"id": "1", "title": "T", "text": "again"}', "duplicate_id", "1"),
        (b'{"title": "T", "text": "x"}', "missing_field", ""),
        (b'["2"]', "wrong_type", ""),
        (b"[" * 100_000, "broken_json", ""),
        (b'{"id": "' + b"2" * 1_025 + b'", "text": "x"}', "id_too_long", "2" * 1_025),
        (('{"id": "' + "é" * 513 + '", "text": "x"}').encode(), "id_too_long", "é" * 513),
    ],
)
def test_a_refused_line_of_json_names_its_article(tmp_path: Path, line: bytes, reason: str, article_id: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD + line + b"\n")
    assert rejected(tmp_path / "a.jsonl") == [(reason, article_id)]


def test_a_refused_page_of_kilt_is_named_by_its_wikipedia_id(tmp_path: Path) -> None:
    good = b'{"_id": "1", "wikipedia_id": "1", "text": ["T", "x"]}\n'
    (tmp_path / "a.jsonl").write_bytes(good + b'{"_id": "2", "wikipedia_id": "22", "text": ["T", "cut')
    assert rejected(tmp_path / "a.jsonl") == [("broken_json", "22")]


def test_refused_rows_of_tables_name_their_article(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"text\tid\ttitle\nx\t1\tT\n\t2\tT\n\xff\t3\tT\nonly\t4\n")
    assert rejected(tmp_path / "a.tsv") == [("empty_text", "2"), ("not_utf8", "3"), ("wrong_columns", "4")]
    pq.write_table(pa.table({"id": [1, 2], "text": ["x", None]}), tmp_path / "a.parquet")
    assert rejected(tmp_path / "a.parquet") == [("missing_field", "2")]


def test_looking_for_an_id_is_bounded() -> None:
    assert salvaged_id(b'{"a": [' + b"1," * 10_000_000 + b'"id": "2"', ("id",)) == ""
    assert salvaged_id(b'{"id": "' + b"x" * 100_000 + b'", "text', ("id",)) == ""
    assert salvaged_id(b'{"id": ' + b"9" * 100_000 + b', "text', ("id",)) == ""


def test_the_dead_letter_file_names_the_article_also_where_its_title_is_too_long(tmp_path: Path) -> None:
    def words(pairs: Sequence[tuple[str, str]]) -> list[npt.NDArray[np.int32]]:
        return [np.zeros(len(f"{title} {text}".split()), np.int32) for title, text in pairs]

    lines = [{"id": "1", "text": "Fine."}, {"id": "2", "title": "word " * 50, "text": "x"}, {"id": "3", "text": ""}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan([tmp_path / "a.jsonl"], words, window=20, rejects_path=tmp_path / "rejected.jsonl")
    rejects = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert sorted((r["reason"], r["article_id"]) for r in rejects) == [("empty_text", "3"), ("title_too_long", "2")]
