"""Sources that were damaged or made to hurt: a one-line InputError or a counted rejection, and little memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import struct
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from glimmer import GlimmerError, InputError
from glimmer.pipelines.corpus import Rejection, read_articles
from glimmer.storage.inputs import decompressed_blocks

ROWS = pa.table({"id": [f"a{i}" for i in range(60)], "title": ["T"] * 60, "text": [f"Text {i}." for i in range(60)]})
GOOD = b'{"id": "1", "title": "T", "text": "Fine."}\n'


def stream(table: pa.Table, compression: str | None = None) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=25)
    return sink.getvalue()


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def refused(path: Path, content: bytes, message: str, **options: str) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        list(read_articles([path], **options))  # type: ignore[arg-type]
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_more_rows_than_bytes_are_refused_before_they_are_read(tmp_path: Path) -> None:
    nothing = pa.table({"id": pa.nulls(5_000_000, pa.int64()), "text": pa.nulls(5_000_000, pa.string())})
    refused(tmp_path / "a.parquet", parquet(nothing), r"5,000,000 rows in [\d,]+ bytes")
    batch = pa.table({"id": pa.nulls(50_000_000), "text": pa.nulls(50_000_000)})
    content = io.BytesIO()
    with pa.ipc.new_stream(content, batch.schema) as writer:
        writer.write_table(batch)
    refused(tmp_path / "a.arrow", content.getvalue(), r"a batch of 50,000,000 rows in 0 bytes")


def test_a_compressed_batch_that_expands_beyond_measure_is_refused_unexpanded(tmp_path: Path) -> None:
    content = stream(pa.table({"id": ["1"], "text": ["x" * (1 << 20)]}), "zstd")
    size, zstandard_magic = struct.pack("<q", 1 << 20), b"\x28\xb5\x2f\xfd"
    assert content.count(size + zstandard_magic) == 1
    for claimed, shown in ((1 << 40, "1,099,511,6"), (1 << 29, "536,8")):
        bent = content.replace(size + zstandard_magic, struct.pack("<q", claimed) + zstandard_magic)
        refused(tmp_path / "a.arrow", bent, f"that would expand to {shown}")


def test_compressed_arrow_of_an_honest_size_is_read(tmp_path: Path) -> None:
    for compression in ("zstd", "lz4"):
        (tmp_path / "a.arrow").write_bytes(stream(ROWS, compression))
        assert len(list(read_articles([tmp_path / "a.arrow"]))) == 60


def test_arrow_offsets_that_leave_their_buffer_are_refused(tmp_path: Path) -> None:
    content = stream(ROWS)
    at = content.index(struct.pack("<iiii", 0, 2, 4, 6))  # offsets of ids a0, a1, a2 …
    bent = content[: at + 8] + struct.pack("<i", 1 << 30) + content[at + 12 :]
    refused(tmp_path / "a.arrow", bent, "damaged Arrow file: column 'id'")


def test_arrow_texts_that_are_not_utf8_are_set_aside_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(stream(ROWS).replace(b"Text 7.", b"Text \xff."))
    records = list(read_articles([tmp_path / "a.arrow"]))
    assert [(r.place, r.reason) for r in records if isinstance(r, Rejection)] == [(f"{tmp_path}/a.arrow:8", "not_utf8")]
    assert len(records) == 60


def test_columns_that_hold_no_text_are_refused_by_name(tmp_path: Path) -> None:
    table = ROWS.append_column("body", pa.array([Decimal(1)] * 60, pa.decimal128(5, 2)))
    (tmp_path / "a.parquet").write_bytes(parquet(table))
    with pytest.raises(InputError, match=r"column 'body' is of type decimal128\(5, 2\), which is no text"):
        list(read_articles([tmp_path / "a.parquet"], fields={"text": "body"}))


def test_compressed_tables_are_refused_with_what_to_do(tmp_path: Path) -> None:
    refused(tmp_path / "a.parquet.gz", gzip.compress(parquet(ROWS)), "a compressed parquet file; decompress it")


def test_compressed_text_expands_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(zstandard.compress(b"x" * (400 << 20)))
    with (tmp_path / "a.zst").open("rb") as file:
        sizes = [len(block) for block in decompressed_blocks(file)]
    assert sum(sizes) == 400 << 20
    assert max(sizes) <= 128 << 20
    with pytest.raises(InputError, match="a line of more than"):
        list(read_articles([tmp_path / "a.zst"], format="json"))


WIKIEXTRACTOR = b"".join(b'<doc id="%d" url="u" title="T %d">\nT %d\n\nText.\n</doc>\n' % (i, i, i) for i in range(9))
CIRRUS = b"".join(
    b'{"index": {"_id": "%d"}}\n{"page_id": %d, "namespace": %d, "title": "T", "text": "x"}\n' % (i, i, i % 2)
    for i in range(9)
)
TSV = b"pid\tpassage\ttitle\n" + b'1\t"A ""tab""\there"\tT\n2\t"Two\nlines"\tU\n3\tplain\tV\n' * 5
SOURCES = {
    "parquet": parquet(ROWS),
    "arrow": stream(ROWS),
    "arrow with zstandard": stream(ROWS, "zstd"),
    "wikiextractor": WIKIEXTRACTOR,
    "cirrus": CIRRUS,
    "tsv": TSV,
    "bzip2": bz2.compress(GOOD * 9),
    "xz": lzma.compress(GOOD * 9),
    "zstandard": zstandard.compress(GOOD * 9),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_flipped_and_missing_bytes_raise_nothing_else(tmp_path: Path, kind: str) -> None:
    content = SOURCES[kind]
    path = tmp_path / "a"
    chance = random.Random(7)
    refusals: list[str] = []
    for _ in range(250):
        bent = bytearray(content)
        for _ in range(chance.randint(1, 3)):
            bent[chance.randrange(len(bent))] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        if chance.random() < 0.2:
            del bent[chance.randrange(len(bent)) :]
        path.write_bytes(bent)
        try:
            for record in read_articles([path]):
                refusals += [str(record)] if isinstance(record, Rejection) else []
        except GlimmerError as error:
            refusals.append(str(error))
    assert len(refusals) > 20
    assert not [message for message in refusals if "\n" in message]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": 123456789012345678901234567890, "text": "x"}', "wrong_type"),
        (b'{"id": 1e400, "text": "x"}', "broken_json"),
        (b'{"id": "2", "text": "x", "deep": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "broken_json"),
        (b'{"id": "2", "text": ' + b'{"paragraph": ' * 5000 + b"1" + b"}" * 5000 + b"}", "broken_json"),
        (b'{"id": "2", "title": {"a": 1}, "text": "x"}', "wrong_type"),
        (b'{"id": "2", "text": [["a", 1]]}', "wrong_type"),
        (b'{"id": "2", "text": {"paragraph": 5}}', "wrong_type"),
    ],
)
def test_json_out_of_measure_is_a_rejected_record(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + line + b"\n")
    records = list(read_articles([path]))
    assert [r.reason for r in records if isinstance(r, Rejection)] == [reason]


def test_unclosed_quotations_are_looked_at_in_bounded_time(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(b"id\ttext\ttitle\n1\tx\tT\n" + b'2\t"never closed\n' * 20_000)
    records = list(read_articles([path]))
    assert sum(isinstance(r, Rejection) for r in records) >= 10_000


def test_a_document_that_never_ends_is_one_rejection(tmp_path: Path) -> None:
    path = tmp_path / "wiki_00"
    path.write_bytes(b'<doc id="1" url="u" title="T">\n' + b"line\n" * 100_000)
    records = list(read_articles([path]))
    assert [(type(r), r.article_id) for r in records] == [(Rejection, "1")]


def test_a_state_file_that_is_nonsense_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(b'{"id": "1", "text": "A state of the union."}\n')
    assert [r.article_id for r in read_articles([tmp_path])] == ["1"]
