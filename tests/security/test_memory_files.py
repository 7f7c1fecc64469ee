"""A memory that somebody sent: plain files of their recorded size, nothing expanded, nothing beyond the format."""

from __future__ import annotations

import os
import resource
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hostile import look, one_line

from glimmer import DamageError, GlimmerError, UsageError
from glimmer.storage.catalog import Catalog
from glimmer.storage.catalog_files import CATALOG_SCHEMA, read_catalog_file, write_catalog_files
from glimmer.storage.files import open_regular, read_regular, sha256_bytes
from glimmer.storage.ledger import Ledger
from glimmer.storage.manifest import CatalogFile
from glimmer.storage.memory import Memory
from glimmer.storage.passage import PASSAGE_SCHEMA
from glimmer.storage.segment_writer import DIGEST_SCHEMA, read_digests
from glimmer.storage.stores import LocalStore
from glimmer.storage.text_shards import TextShard
from glimmer.storage.verify import verify

pytestmark = pytest.mark.timeout(120)


# Plain files alone.

FILES = {
    "identity": "memory.json",
    "log": f"passages/_delta_log/{2:020d}.json",
    "earlier log": f"passages/_delta_log/{0:020d}.json",
    "catalog": "passages/part-*.parquet",
    "digests": "segments/*/digests.arrow",
    "codes": "segments/*/codes/c.0.0.0",
    "lengths": "segments/*/lengths/c.0",
    "text": "segments/*/text/0.arrow",
}


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "directory"])
@pytest.mark.parametrize("name", FILES)
def test_a_memory_is_made_of_plain_files(name: str, kind: str, sent: Path) -> None:
    """A FIFO never answers and /dev/zero never ends: both are found before anybody reads them, library or not."""
    path = min(sent.glob(FILES[name]))
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(kind)
    with pytest.raises(GlimmerError) as caught:
        look(sent)
    one_line(caught.value)
    try:
        assert not verify(sent).sound
    except GlimmerError as error:
        one_line(error)


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero"])
def test_the_id_map_is_built_again_when_it_is_no_plain_file(kind: str, sent: Path) -> None:
    look(sent)
    path = sent / "indexes" / "2" / "ids.map"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(kind)
    look(sent)


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero"])
def test_a_ledger_is_made_of_plain_files(kind: str, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "job")
    ledger.write_plan({"rows": 3})
    for path in (Path(ledger.name) / "plan.json", Path(ledger.name) / "shards" / "0-1024.json"):
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(kind)
    with pytest.raises(DamageError):
        ledger.read_plan()
    assert ledger.records() == {}


def test_a_link_to_a_plain_file_is_that_file(sent: Path, tmp_path: Path) -> None:
    (sent / "memory.json").rename(tmp_path / "elsewhere.json")
    (sent / "memory.json").symlink_to(tmp_path / "elsewhere.json")
    look(sent)


def test_a_file_of_another_size_is_not_read(tmp_path: Path) -> None:
    """A terabyte that takes no room on the disk."""
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert read_regular(path, size=3) == b"abc"
    assert open_regular(path).read() == b"abc"
    os.truncate(path, 1 << 40)
    with pytest.raises(DamageError, match="expected 3"):
        read_regular(path, size=3)
    with pytest.raises(DamageError, match="more than such a file ever has"):
        read_regular(path, most=1 << 20)


@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_memory_is_read_when_it_is_far_too_large(name: str, sent: Path) -> None:
    """Of eight terabytes each: whoever reads one runs out of memory or time."""
    path = min(sent.glob(FILES[name]))
    os.truncate(path, 1 << 42)
    start = time.monotonic()
    with pytest.raises(GlimmerError) as caught:
        look(sent)
    one_line(caught.value)
    if name not in ("digests",):
        try:
            assert not verify(sent).sound
        except GlimmerError as error:
            one_line(error)
    assert time.monotonic() - start < 30


@pytest.mark.parametrize(
    "name",
    ["_last_checkpoint", f"{2:020d}.checkpoint.parquet", f"{0:020d}.{2:020d}.compacted.json"],
)
def test_a_log_with_what_delta_would_read_in_its_place_is_refused(name: str, sent: Path) -> None:
    """Checkpoints have no checksum and stand for entries."""
    (sent / "passages/_delta_log" / name).write_bytes(b'{"version": 2, "size": 3}')
    with pytest.raises(DamageError, match="checkpoints"):
        Memory.open(sent)


@pytest.mark.parametrize("number", ["00000000999999999999", "99999999999999999999"])
def test_a_log_entry_of_a_huge_number_takes_no_time(number: str, sent: Path) -> None:
    shutil.copy(sent / FILES["log"], sent / "passages/_delta_log" / f"{number}.json")
    for use in (verify, Memory.open, lambda memory: Catalog(memory).history()):
        with pytest.raises(DamageError, match="none of its"):
            use(sent)


def test_names_in_the_log_that_are_no_versions_are_passed_over(sent: Path) -> None:
    for name in ("²" * 20 + ".json", "٣" * 20 + ".json", ".tmp-x", "_commit_x.json.tmp"):
        (sent / "passages/_delta_log" / name).write_bytes(b"{}")
    look(sent)


# Text shards and digests.


def compressed(schema: pa.Schema, columns: dict[str, Any], codec: str = "zstd") -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(pa.RecordBatch.from_pydict(columns, schema))
    return sink.getvalue().to_pybytes()


def text_columns(text: str) -> dict[str, Any]:
    columns: dict[str, Any] = {field.name: [0] for field in PASSAGE_SCHEMA}
    return columns | {
        "passage_id": ["0" * 32],
        "article_id": ["a"],
        "title": ["t"],
        "text": [text],
        "content_hash": ["0" * 16],
        "tokens": [[1, 2]],
    }


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_compressed_text_shard_is_refused_before_it_is_expanded(codec: str, tmp_path: Path) -> None:
    path = tmp_path / "0.arrow"
    path.write_bytes(compressed(PASSAGE_SCHEMA, text_columns("x" * (64 << 20)), codec))
    assert path.stat().st_size < 1 << 20
    before = pa.total_allocated_bytes()
    with pytest.raises(DamageError, match="compressed"):
        TextShard(LocalStore(tmp_path), "0.arrow")
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_compressed_digests_are_refused_before_they_are_expanded(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        field.name: ["0" * 64 if field.type == pa.string() else 1] * 50_000 for field in DIGEST_SCHEMA
    }
    content = compressed(DIGEST_SCHEMA, columns)
    path = tmp_path / "digests.arrow"
    path.write_bytes(content)
    with pytest.raises(DamageError, match="compressed"):
        read_digests(LocalStore(tmp_path), "digests.arrow", sha256_bytes(content), "repair", shards=50_000)


def test_digests_of_more_shards_than_there_are_is_refused(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        field.name: ["0" * 64 if field.type == pa.string() else 1] * 1000 for field in DIGEST_SCHEMA
    }
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, DIGEST_SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_pydict(columns, DIGEST_SCHEMA))
    content = sink.getvalue().to_pybytes()
    path = tmp_path / "digests.arrow"
    path.write_bytes(content)
    assert (
        len(read_digests(LocalStore(tmp_path), "digests.arrow", sha256_bytes(content), "repair", shards=1000)) == 1000
    )
    with pytest.raises(DamageError, match=r"at most 999|more than such"):
        read_digests(LocalStore(tmp_path), "digests.arrow", sha256_bytes(content), "repair", shards=999)
    with pytest.raises(DamageError, match="more than such a file ever has"):
        read_digests(LocalStore(tmp_path), "digests.arrow", sha256_bytes(content), "repair", shards=2)


@pytest.mark.parametrize("rows", [1 << 62, -1, 2000])
def test_a_text_shard_with_a_forged_number_of_rows_is_refused(rows: int, tmp_path: Path, kit: Any) -> None:
    """The batch's length stands in its header as 64 bits."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, PASSAGE_SCHEMA) as writer:
        batch = pa.RecordBatch.from_pydict(text_columns("some text"), PASSAGE_SCHEMA)
        writer.write_batch(pa.Table.from_batches([batch] * 7).combine_chunks().to_batches()[0])
    content = sink.getvalue().to_pybytes()
    seven = (7).to_bytes(8, "little")
    at = content.index(seven)
    bent = bytearray(content)
    bent[at : at + 8] = rows.to_bytes(8, "little", signed=True)
    path = tmp_path / "0.arrow"
    path.write_bytes(bent)
    with pytest.raises(DamageError) as caught:
        TextShard(LocalStore(tmp_path), "0.arrow")
    one_line(caught.value)


def test_a_chunk_that_would_expand_without_end_is_refused_within_its_own_size(sent: Path) -> None:
    """A gigabyte of zeros in a few kilobytes, with checksums that fit: no more is expanded than a passage has."""
    packer = zstandard.ZstdCompressor(level=19).compressobj()
    packed = b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()
    chunk = packed + struct.pack("<I", google_crc32c.value(packed))
    index = struct.pack("<QQ", 0, len(chunk)) * 8 + b"\xff" * 16 * 1016
    path = min(sent.glob("segments/*-1/codes/c.0.0.0"))
    path.write_bytes(chunk + index + struct.pack("<I", google_crc32c.value(index)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    opened = Memory.open(sent, check=False)
    with pytest.raises(DamageError, match="segment seg-job-1, shard 0"):
        opened.fetch(range(opened.passages))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


# The catalog's Parquet.


def catalog_file(directory: Path, table: pa.Table, **settings: Any) -> CatalogFile:
    """A file of the right columns with whatever else, and the manifest's entry that vouches for it."""
    path = directory / f"passages/part-00000-{'0' * 32}.parquet"
    path.parent.mkdir()
    pq.write_table(table, path, **{"compression": "zstd", "write_page_checksum": True, **settings})
    content = path.read_bytes()
    return CatalogFile(
        name=path.name,
        bytes=len(content),
        rows=table.num_rows,
        tokens=table.num_rows,
        sha256=sha256_bytes(content),
        segments={"s": table.num_rows},
    )


def rows(count: int, **changes: Any) -> pa.Table:
    columns: dict[str, Any] = {}
    for field in CATALOG_SCHEMA:
        if field.type == pa.int32():
            columns[field.name] = pa.array(np.arange(count, dtype=np.int32))
        else:
            value = changes.get(field.name, "a" * 16)
            columns[field.name] = pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(count, np.int32)), pa.array([value])
            ).dictionary_decode()
    return pa.table(columns, CATALOG_SCHEMA)


def test_what_is_written_is_read_with_or_without_dictionaries(tmp_path: Path) -> None:
    table = rows(300).sort_by([("segment", "ascending"), ("row", "ascending")])
    (file,) = write_catalog_files(LocalStore(tmp_path), [table])
    assert pa.Table.from_batches(read_catalog_file(LocalStore(tmp_path), file, batch_rows=100)).equals(table)
    assert [batch.schema.names for batch in read_catalog_file(LocalStore(tmp_path), file, ["row", "segment"])] == [
        ["row", "segment"]
    ]


def test_a_file_with_more_rows_than_its_manifest_counts_is_refused_before_they_are_read(tmp_path: Path) -> None:
    table = rows(2_000_000)
    file = catalog_file(tmp_path, table, use_dictionary=True)
    assert file.bytes < 50 << 20
    few = CatalogFile(**{name: getattr(file, name) for name in CatalogFile.__dataclass_fields__} | {"rows": 5})
    before = pa.total_allocated_bytes()
    with pytest.raises(DamageError, match="not a catalog file of this version"):
        list(read_catalog_file(LocalStore(tmp_path), few))
    assert pa.total_allocated_bytes() - before < 1 << 20


@pytest.mark.parametrize("column", ["article_id", "segment"])
def test_one_long_value_of_many_rows_is_not_repeated_for_each(column: str, tmp_path: Path) -> None:
    """A megabyte in a dictionary, named by fifty thousand rows, would be 50 GB."""
    table = rows(50_000)
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, np.int32)), pa.array(["x" * (1 << 20)]))
    fields = [pa.field(f.name, long.type, nullable=False) if f.name == column else f for f in CATALOG_SCHEMA]
    columns = [long if f.name == column else table.column(f.name) for f in CATALOG_SCHEMA]
    file = catalog_file(tmp_path, pa.Table.from_arrays(columns, schema=pa.schema(fields)), store_schema=False)
    with pytest.raises(DamageError, match="more than there can be"):
        list(read_catalog_file(LocalStore(tmp_path), file))


def test_pages_that_expand_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    table = rows(4).set_column(4, CATALOG_SCHEMA.field(4), pa.array(["x" * (8 << 20)] * 4))
    file = catalog_file(tmp_path, table, use_dictionary=False)
    assert file.bytes < 1 << 20
    with pytest.raises(DamageError, match="more than a catalog file has"):
        list(read_catalog_file(LocalStore(tmp_path), file))


def test_rows_that_nobody_could_read_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shorter article ids"):
        list(write_catalog_files(LocalStore(tmp_path), [rows(300, article_id="x" * (1 << 16))]))


def test_a_catalog_file_of_another_size_is_not_read(tmp_path: Path) -> None:
    (file,) = write_catalog_files(LocalStore(tmp_path), [rows(3)])
    os.truncate(tmp_path / "passages" / file.name, 1 << 40)
    with pytest.raises(DamageError, match="expected"):
        list(read_catalog_file(LocalStore(tmp_path), file))
