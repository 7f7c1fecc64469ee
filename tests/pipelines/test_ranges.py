"""Ranges: a corpus read range by range gives the records that it gives as one stream, however it is cut."""

from __future__ import annotations

import csv
import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glimmer import InputError
from glimmer.pipelines.corpus import Article, Corpus
from glimmer.pipelines.corpus.article import Record
from glimmer.pipelines.corpus.ranges import SourceRange, ranges_digest


def without_place(record: Record) -> Record:
    return replace(record, place="")


def in_ranges(path: Path, size: int, **options: Any) -> tuple[list[Record], list[SourceRange]]:
    """The records of all ranges, in order, with the places that they have in the file, and the ranges."""
    ranges = Corpus([path], **options).ranges(size)
    records: list[Record] = []
    before = 0
    for each in pickle.loads(pickle.dumps(ranges)):
        before = 0 if each.begins_file else before
        for record in each.read(lambda share: None, lambda kind: None):
            name, _, number = record.place.rpartition(":")
            records.append(replace(record, place=f"{name}:{int(number) + before}"))
        before += each.lines
    return records, ranges


def whole(path: Path, **options: Any) -> list[Record]:
    return list(Corpus([path], **options).read(unique=False))


def jsonl(path: Path, texts: Sequence[str], end: str = "\n") -> Path:
    lines = [json.dumps({"id": f"a{i}", "text": text}) for i, text in enumerate(texts)]
    path.write_bytes(end.join(lines).encode())
    return path


@pytest.mark.parametrize("size", [1, 13, 64, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n  \n"])
def test_lines_belong_to_the_range_of_their_first_byte(tmp_path: Path, size: int, end: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", [f"Text {i} " * (i % 5 + 1) for i in range(60)], end)
    records, ranges = in_ranges(path, size)
    assert records == whole(path)
    assert len(ranges) == -(-path.stat().st_size // size)


def test_a_byte_order_mark_counts_at_the_beginning_of_a_file_only(tmp_path: Path) -> None:
    line = json.dumps({"id": "a", "text": "One."}).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\n\xef\xbb\xbf" + line.replace(b'"a"', b'"b"'))
    for size in (8, len(line) + 4, len(line) + 5, 1 << 20):
        records, _ = in_ranges(path, size)
        assert records == whole(path)
        assert [isinstance(record, Article) for record in records] == [True, False]


def test_a_line_longer_than_many_ranges_is_read_by_one(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ["Short.", "A sentence. " * 900_000, "Short too."])
    records, ranges = in_ranges(path, 1 << 20)
    assert len(ranges) == 11
    assert records == whole(path)


def test_quoted_rows_of_several_lines_are_never_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    texts = ["plain", '"quoted" text', "two\nlines", "a\ttab", 'an open " mark', 'blank\n\n"lines"']
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", "text", "title"])
        for i in range(120):
            writer.writerow([f"d{i}", texts[i % 6] * (i % 4 + 1), ["T", '"T"', "a\nb"][i % 3]])
        file.write('no columns\n"another\tbad line\n')
    for size in (3, 40, 500):
        assert in_ranges(path, size)[0] == whole(path)


def test_row_groups_of_a_parquet_file_are_read_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"Text {i}." if i % 50 else None for i in range(1, 501)]
    pq.write_table(pa.table({"id": [f"p{i}" for i in range(500)], "text": texts}), path, row_group_size=37)
    records, ranges = in_ranges(path, 1)
    assert len(ranges) == 14
    assert records == whole(path)
    assert len(in_ranges(path, path.stat().st_size // 3)[1]) in (3, 4)


def test_small_files_share_a_range_and_what_cannot_be_split_has_its_own(tmp_path: Path) -> None:
    for i in range(6):
        jsonl(tmp_path / f"{i}.jsonl", [f"Text {i}."])
    jsonl(tmp_path / "7.jsonl", ["Much longer. " * 100])
    size = 3 * (tmp_path / "0.jsonl").stat().st_size
    corpus = Corpus([tmp_path])
    ranges = corpus.ranges(size)
    assert [len(each.parts) for each in ranges[:2]] == [3, 3]
    assert sum(each.size for each in ranges[2:]) == pytest.approx((tmp_path / "7.jsonl").stat().st_size, rel=0.1)
    assert corpus.ranges(1 << 30)[0].size == corpus.bytes
    assert ranges_digest(ranges) == ranges_digest(Corpus([tmp_path]).ranges(size))
    assert ranges_digest(ranges) != ranges_digest(corpus.ranges(size + 1))


def test_an_endless_line_is_named_by_its_number_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glimmer.pipelines.corpus.lines.MAX_LINE_BYTES", 5000)
    path = jsonl(tmp_path / "a.jsonl", ["Short."] * 40 + ["x" * 4_000_000])
    with pytest.raises(InputError, match=r"a\.jsonl:41: a line of more than 5,000 bytes"):
        in_ranges(path, 300)


LINE = st.one_of(
    st.text("ab \u00e9\ufeff\t\r", max_size=30).map(lambda text: json.dumps({"id": text or "x", "text": text or "y"})),
    st.sampled_from(["", " ", "{broken", '{"id": "\u00e9", "text": "A word."}', "\ufeff"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LINE, max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 90))
def test_any_lines_in_any_ranges(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str, closed: bool, size: int
) -> None:
    path = tmp_path_factory.mktemp("ranges") / "a.jsonl"
    first = json.dumps({"id": "first", "text": "The format is told from it."})
    path.write_bytes(end.join([first, *lines, *([""] if closed else [])]).encode())
    assert in_ranges(path, size, format="json")[0] == whole(path, format="json")
