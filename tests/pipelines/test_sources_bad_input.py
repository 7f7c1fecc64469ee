"""Bad input: one bad record is set aside with its place and reason; a file that is not what it should be is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glimmer import InputError, StorageError
from glimmer.pipelines.corpus import Article, lines, read_articles
from glimmer.pipelines.corpus.rejects import Rejection, RejectLog, snippet

GOOD = b'{"id": "1", "title": "T", "text": "Fine."}\n'


def read(path: Path, format: str | None = None) -> tuple[list[Article], list[Rejection]]:
    records = list(read_articles([path], format=format))
    good = [r for r in records if isinstance(r, Article)]
    return good, [r for r in records if isinstance(r, Rejection)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "2", "title": "T", "text": "cut off', "broken_json"),
        (b'{"id": "2", "title": "T", "text": "NaN", "x": NaN}', "broken_json"),
        (b'{"id": "2", "title": "T", "text": "caf\xe9"}', "not_utf8"),
        (b'{"id": "2", "title": "T", "text": "\\ud800"}', "lone_surrogate"),
        (b'{"id": "2", "title": "T"}', "missing_field"),
        (b'{"title": "T", "text": "x"}', "missing_field"),
        (b'{"id": "  ", "title": "T", "text": "x"}', "missing_field"),
        (b'{"id": "2", "title": "T", "text": null}', "missing_field"),
        (b'{"id": "2", "title": "T", "text": ["x", 5]}', "wrong_type"),
        (b'{"id": "2", "title": [5], "text": "x"}', "wrong_type"),
        (b'{"id": 2.5, "title": "T", "text": "x"}', "wrong_type"),
        (b'{"id": true, "title": "T", "text": "x"}', "wrong_type"),
        (b'{"id": "a\\u0000b", "title": "T", "text": "x"}', "wrong_type"),
        (b'["id", "title"]', "wrong_type"),
        (b'{"id": "2", "title": "T", "text": " \\n \\u0000"}', "empty_text"),
        (b'{"id": "1", "title": "T", "text": "again"}', "duplicate_id"),
        (b'{"id": 1, "title": "T", "text": "again, as a number"}', "duplicate_id"),
    ],
)
def test_a_bad_record_is_set_aside_and_the_rest_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + line + b"\n" + GOOD.replace(b'"1"', b'"3"'))
    good, bad = read(path)
    assert [a.article_id for a in good] == ["1", "3"]
    assert [(r.place, r.reason) for r in bad] == [(f"{path}:2", reason)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"wikipedia_id": "2", "wikipedia_title": "T"}, "missing_field"),
        ({"wikipedia_id": "2", "wikipedia_title": "T", "text": "x"}, "wrong_type"),
        ({"wikipedia_id": "2", "wikipedia_title": "T", "text": ["T", 5]}, "wrong_type"),
        ({"wikipedia_id": "2", "wikipedia_title": "T", "text": []}, "empty_text"),
        ({"wikipedia_id": "2", "wikipedia_title": "T", "text": ["T", "\n", ""]}, "empty_text"),
        ({"wikipedia_title": "T", "text": ["T", "x"]}, "missing_field"),
    ],
)
def test_bad_kilt_records(tmp_path: Path, line: dict[str, object], reason: str) -> None:
    path = tmp_path / "a.jsonl"
    first = {"_id": "1", "text": ["Title from the text", "x"]}
    path.write_text(json.dumps(first) + "\n" + json.dumps(line) + "\n")
    good, bad = read(path)
    assert [a.title for a in good] == ["Title from the text"]
    assert [r.reason for r in bad] == [reason]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"2\tonly text", "wrong_columns"),
        (b"2\t\tT", "empty_text"),
        (b"\tx\tT", "missing_field"),
        (b"2\t\xff\tT", "not_utf8"),
    ],
)
def test_bad_tsv_rows(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"id\ttext\ttitle\n1\tx\tT\n" + line + b"\n")
    _, bad = read(path)
    assert [(r.place, r.reason) for r in bad] == [(f"{path}:3", reason)]
    path.write_bytes(b"1\tx\nno tab here\n")
    assert [r.reason for r in read(path)[1]] == ["wrong_columns"]


def test_bad_parquet_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    text = pa.array([b"fine", None, b"\xff", b" "], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"id": ["1", "2", "3", "4"], "title": ["T"] * 4, "text": text}), path)
    good, bad = read(path)
    assert [a.article_id for a in good] == ["1"]
    assert [(r.place, r.reason) for r in bad] == [
        (f"{path}:2", "missing_field"),
        (f"{path}:3", "not_utf8"),
        (f"{path}:4", "empty_text"),
    ]


def test_nul_characters_are_white_space(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "1", "title": "a\\u0000b", "text": "c\\u0000d"}\n')
    assert read(path)[0][0].title == "a b"


@pytest.mark.parametrize("cut", [40, 2000, -5])
def test_a_truncated_gzip_is_refused_with_file_and_line(tmp_path: Path, cut: int) -> None:
    lines = b"".join(b'{"id": "%d", "title": "T", "text": "%s"}\n' % (i, b"%x" % pow(7, i, 10**90)) for i in range(500))
    whole = gzip.compress(lines)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[:cut])
    read_before: list[Article | Rejection] = []
    with pytest.raises(InputError, match=r"a\.jsonl\.gz:\d+: truncated gzip: the file ends at byte [\d,]+"):
        read_before.extend(read_articles([path], format="wikipedia"))
    assert all(isinstance(r, Article) for r in read_before)
    if cut != 40:
        assert read_before


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(GOOD * 50))
    whole[-6] ^= 0xFF  # the checksum
    path = tmp_path / "a.gz"
    path.write_bytes(whole)
    with pytest.raises(InputError, match="damaged gzip"):
        read(path, "wikipedia")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (gzip.compress(b"", mtime=0), "no lines with text"),
        (b"\n \n\n", "no lines with text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "a binary file"),
        (b"PK\x03\x04 zipped", "a zip archive; unpack it"),
        (b"BZh91AY&SY", "truncated bzip2"),
        ("\ufeff{}".encode("utf-16"), "UTF-16 text"),
        (b"Just prose.\nMore prose.\n", r"its first 2 line\(s\) are neither records nor a table"),
        (b'[{"id": "1", "title": "T", "text": "x"}]\n', "a JSON list"),
        (b"PAR1 not really", "damaged or truncated Parquet"),
    ],
)
def test_a_file_that_cannot_be_a_source_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_parquet_without_the_columns_or_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": ["1"], "body_": ["x"]}), path)
    with pytest.raises(InputError, match="its columns are id, body_; none is known to hold an article's text"):
        read(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="truncated Parquet"):
        read(path)


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    for source, message in (
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path, "no files to read"),
        (f"{tmp_path}/*.jsonl", "no file matches"),
        ("memory://glimmer_nothing/x", "nothing to read there"),
        ("nosuch://x/y", "nosuch"),
    ):
        with pytest.raises(InputError, match=message):
            list(read_articles([source]))


def test_every_file_is_looked_at_before_the_first_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.jsonl").write_bytes(b"Just prose.")
    with pytest.raises(InputError, match=r"b\.jsonl: not recognised as a corpus"):
        next(read_articles([tmp_path]))


def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b'{"id": "2", "text": "' + b"x" * (5 << 20))
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 3 << 20)
    with pytest.raises(InputError, match=r"a\.jsonl:2: a line of more than 3,145,728 bytes"):
        read(path)


def test_duplicates_are_found_across_sources(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.tsv").write_bytes(b"1\tx\tT\n")
    records = list(read_articles([tmp_path / "a.jsonl", tmp_path / "b.tsv"]))
    assert isinstance(records[1], Rejection)
    assert (records[1].place, records[1].reason) == (f"{tmp_path}/b.tsv:1", "duplicate_id")


def test_the_dead_letter_file_says_where_and_why(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rejects.jsonl"
    with RejectLog(path) as log:
        assert not path.exists()  # created at the first rejection
        log.add(Rejection("f:3", "not_utf8", "not valid UTF-8 at byte 7", snippet(b"caf\xe9\x00" + b"x" * 500)))
    record = json.loads(path.read_text())
    assert (record["place"], record["reason"]) == ("f:3", "not_utf8")
    assert record["snippet"].startswith("caf\\xe9\\x00xxx")
    assert len(record["snippet"]) < 230
    assert log.counts == {"not_utf8": 1}
    with RejectLog(path):
        pass
    assert not path.exists()  # an earlier run's file is not left to mislead


def test_strict_stops_at_the_first(tmp_path: Path) -> None:
    with RejectLog(None, strict=True) as log, pytest.raises(InputError, match=r"f:3: bad \(why\): rec; drop --strict"):
        log.add(Rejection("f:3", "why", "bad", "rec"))


def test_a_dead_letter_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write rejected records"):
        RejectLog(tmp_path / "file" / "x.jsonl").add(Rejection("f:3", "why", "bad", "rec"))
