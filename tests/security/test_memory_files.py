"""A memory that somebody sent: plain files of their recorded size, nothing expanded, nothing beyond the format."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from glimmer import DamageError, GlimmerError, MismatchError, UsageError
from glimmer.storage import idmap
from glimmer.storage.catalog import Catalog
from glimmer.storage.catalog_files import CATALOG_SCHEMA, read_catalog_file, write_catalog_files
from glimmer.storage.files import open_regular, read_regular, sha256_bytes, translated
from glimmer.storage.identity import Identity
from glimmer.storage.ledger import Ledger
from glimmer.storage.manifest import CHECKSUM_KEY, MANIFEST_KEY, CatalogFile, Manifest, SegmentEntry
from glimmer.storage.memory import Memory
from glimmer.storage.passage import PASSAGE_SCHEMA
from glimmer.storage.text import TextShard
from glimmer.storage.verify import verify
from glimmer.storage.writer import DIGEST_SCHEMA, read_digests

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def made(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = kit.memory(tmp_path_factory.mktemp("made") / "m", 12, 8)
    return path


@pytest.fixture
def sent(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "m"))


def look(memory: Path) -> None:
    """Whatever a reader does with a memory."""
    opened = Memory.open(memory)
    opened.texts(range(opened.passages))
    opened.fetch(range(opened.passages))
    list(opened.passage_table())
    opened.history()


def one_line(error: GlimmerError) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 1500
    return text


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
    for path in (ledger.directory / "plan.json", ledger.directory / "shards" / "0-1024.json"):
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
        TextShard(path)
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_compressed_digests_are_refused_before_they_are_expanded(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        field.name: ["0" * 64 if field.type == pa.string() else 1] * 50_000 for field in DIGEST_SCHEMA
    }
    content = compressed(DIGEST_SCHEMA, columns)
    path = tmp_path / "digests.arrow"
    path.write_bytes(content)
    with pytest.raises(DamageError, match="compressed"):
        read_digests(path, sha256_bytes(content), "repair", shards=50_000)


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
    assert len(read_digests(path, sha256_bytes(content), "repair", shards=1000)) == 1000
    with pytest.raises(DamageError, match=r"at most 999|more than such"):
        read_digests(path, sha256_bytes(content), "repair", shards=999)
    with pytest.raises(DamageError, match="more than such a file ever has"):
        read_digests(path, sha256_bytes(content), "repair", shards=2)


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
        TextShard(path)
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
    path = directory / f"part-00000-{'0' * 32}.parquet"
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
    (file,) = write_catalog_files(tmp_path, [table])
    assert pa.Table.from_batches(read_catalog_file(tmp_path, file, batch_rows=100)).equals(table)
    assert [batch.schema.names for batch in read_catalog_file(tmp_path, file, ["row", "segment"])] == [
        ["row", "segment"]
    ]


def test_fifty_million_rows_in_a_small_file_are_refused_by_the_manifest() -> None:
    record = json.loads(manifest().to_text())
    record["files"][0] |= {"rows": 50_000_000, "segments": {"s": 50_000_000}}
    record["segments"]["s"]["rows"] = 50_000_000
    with pytest.raises(ValueError, match="rows of part-"):
        parsed(record)


def test_a_file_with_more_rows_than_its_manifest_counts_is_refused_before_they_are_read(tmp_path: Path) -> None:
    table = rows(2_000_000)
    file = catalog_file(tmp_path, table, use_dictionary=True)
    assert file.bytes < 50 << 20
    few = CatalogFile(**{name: getattr(file, name) for name in CatalogFile.__dataclass_fields__} | {"rows": 5})
    before = pa.total_allocated_bytes()
    with pytest.raises(DamageError, match="not a catalog file of this version"):
        list(read_catalog_file(tmp_path, few))
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
        list(read_catalog_file(tmp_path, file))


def test_pages_that_expand_beyond_the_limit_are_refused(tmp_path: Path) -> None:
    table = rows(4).set_column(4, CATALOG_SCHEMA.field(4), pa.array(["x" * (8 << 20)] * 4))
    file = catalog_file(tmp_path, table, use_dictionary=False)
    assert file.bytes < 1 << 20
    with pytest.raises(DamageError, match="more than a catalog file has"):
        list(read_catalog_file(tmp_path, file))


def test_rows_that_nobody_could_read_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shorter article ids"):
        list(write_catalog_files(tmp_path, [rows(300, article_id="x" * (1 << 16))]))


def test_a_catalog_file_of_another_size_is_not_read(tmp_path: Path) -> None:
    (file,) = write_catalog_files(tmp_path, [rows(3)])
    os.truncate(tmp_path / file.name, 1 << 40)
    with pytest.raises(DamageError, match="expected"):
        list(read_catalog_file(tmp_path, file))


# What manifest and memory.json say.


def manifest() -> Manifest:
    digest = "0" * 64
    return Manifest(
        version=1,
        time="2026-01-02T03:04:05.000006Z",
        operation="encode",
        job="job",
        files=(
            CatalogFile(
                name=f"part-00000-{'0' * 32}.parquet", bytes=10, rows=3, tokens=9, sha256=digest, segments={"s": 3}
            ),
        ),
        segments={"s": segment_entry(digest)},
        rows_added=3,
        rows_removed=0,
        identity_sha256=digest,
        previous_sha256=digest,
    )


def segment_entry(digest: str) -> Any:
    return SegmentEntry(rows=3, tokens=9, bytes=100, digests_sha256=digest)


def parsed(record: dict[str, Any], text: str | None = None) -> Manifest:
    text = json.dumps(record) if text is None else text
    info = {MANIFEST_KEY: text, CHECKSUM_KEY: hashlib.sha256(text.encode()).hexdigest()}
    return Manifest.from_commit(info, 1)


def test_a_version_that_nobody_could_read_is_not_written() -> None:
    """A machine whose clock says the year 3000, or a count beyond the format."""
    for changes in ({"time": "3000-01-01T00:00:00.000000Z"}, {"rows_added": 1 << 60}, {"job": "A job"}):
        with pytest.raises(UsageError, match="nobody could read"):
            dataclasses.replace(manifest(), **changes).commit_metadata()
    many = tuple(
        dataclasses.replace(manifest().files[0], name=f"part-{n:05d}-{'0' * 32}.parquet") for n in range(99_999)
    )
    few = dataclasses.replace(manifest(), files=many, details={"x": "y" * (20 << 20)})
    with pytest.raises(UsageError, match="too large to record"):
        few.commit_metadata()


def test_the_manifest_of_these_tests_is_sound() -> None:
    assert parsed(json.loads(manifest().to_text())) == manifest()


FORGED: dict[str, tuple[str, Any]] = {
    "a year of five digits": ("time", "99999-01-01T00:00:00.000000Z"),
    "the last year": ("time", "9999-12-31T23:59:59.999999Z"),
    "the first year": ("time", "0001-01-01T00:00:00.000000Z"),
    "a thirteenth month": ("time", "2026-13-01T00:00:00.000000Z"),
    "a thirtieth of February": ("time", "2026-02-30T00:00:00.000000Z"),
    "a leap second": ("time", "2026-02-03T23:59:60.000000Z"),
    "digits of another script": ("time", "٢٠٢٦-01-02T03:04:05.000006Z"),
    "a huge version": ("version", 10**30),
    "half a version": ("version", 1.5),
    "more rows added than there can be": ("rows_added", 1 << 63),
    "rows of a segment": ("segments/s/rows", 1 << 31),
    "more tokens than rows hold": ("segments/s/tokens", 1 << 40),
    "bytes of a segment": ("segments/s/bytes", 1 << 70),
    "fewer rows than are live": ("segments/s/rows", 2),
    "more bytes than rows take": ("files/0/bytes", 1 << 30),
    "rows of a file": ("files/0/rows", 1_000_001),
    "rows beside its segments'": ("files/0/rows", 2),
    "tokens of a file": ("files/0/tokens", 1 << 40),
    "negative rows": ("files/0/segments/s", -3),
    "files that are an object": ("files", {}),
    "files that are text": ("files", "abc"),
    "a name of digits of another script": ("files/0/name", f"part-٠٠٠٠٠-{'0' * 32}.parquet"),
}


def forged(record: Any, place: str, value: Any) -> Any:
    at, *rest = place.split("/")
    key: Any = int(at) if isinstance(record, list) else at
    record[key] = forged(record[key], "/".join(rest), value) if rest else value
    return record


@pytest.mark.parametrize("name", FORGED)
def test_no_number_or_date_of_a_manifest_is_beyond_the_format(name: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parsed(forged(json.loads(manifest().to_text()), *FORGED[name]))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_manifest_in_a_log_is_damage_in_every_command(name: str, sent: Path) -> None:
    """The checksum fits, as a forger's would."""
    path = sent / FILES["log"]
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    info = next(line["commitInfo"] for line in lines if "commitInfo" in line)
    record = json.loads(info[MANIFEST_KEY])
    place, value = FORGED[name]
    segment = min(record["segments"])
    way = "/".join(segment if part == "s" else part for part in place.split("/"))
    text = json.dumps(forged(record, way, value))
    info |= {MANIFEST_KEY: text, CHECKSUM_KEY: hashlib.sha256(text.encode()).hexdigest()}
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DamageError) as caught:
        Memory.open(sent)
    one_line(caught.value)
    assert not verify(sent).sound


@pytest.mark.parametrize("text", ["NaN", "[" * 50_000, "9" * 5000, '{"a": 1e999}', "null"])
def test_a_manifest_without_sense_is_damage(text: str) -> None:
    def use() -> None:
        with translated("log", lambda words: DamageError(words)):
            parsed({}, text)

    with pytest.raises(DamageError) as caught:
        use()
    one_line(caught.value)


IDENTITIES: dict[str, tuple[str, Any]] = {
    "a window beyond 16 bits": ("passages/window", 1 << 16),
    "a window of a huge number": ("passages/window", 10**400),
    "codes of 4 GB a passage": ("codec/width", 1 << 40),
    "a year of five digits": ("created", "12026-01-01T00:00:00Z"),
    "a thirteenth month": ("created", "2026-13-01T00:00:00Z"),
    "the last year": ("created", "9999-12-31T23:59:59Z"),
    "an infinite option": ("passages/options", {"x": float("inf")}),
    "an option that is no number": ("passages/options", {"x": float("nan")}),
    "an option of 300 digits": ("passages/options", {"x": 10**300}),
    "a huge shape": ("shapes", [[1 << 40, 16]]),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_no_number_or_date_of_an_identity_is_beyond_the_format(name: str, kit: Any) -> None:
    record = forged(json.loads(kit.identity().to_bytes()), *IDENTITIES[name])
    with pytest.raises(DamageError) as caught:
        Identity.parse(json.dumps(record).encode())
    one_line(caught.value)


@pytest.mark.parametrize("value", ["1e999", "-1e999", "NaN", "9" * 5000])
def test_a_number_that_json_cannot_have_is_damage(value: str, kit: Any) -> None:
    content = json.dumps(forged(json.loads(kit.identity().to_bytes()), "passages/options", {"x": "HERE"}))
    with pytest.raises(DamageError) as caught:
        Identity.parse(content.replace('"HERE"', value).encode())
    one_line(caught.value)


def test_a_passage_may_not_take_more_than_the_format_allows(kit: Any) -> None:
    """A window of 65,535 tokens of 64 KiB each would be 4 GB for one passage."""
    record = json.loads(kit.identity().to_bytes())
    record["codec"], record["encoder"]["d_model"] = {"name": "float32", "width": 1 << 14}, 1 << 14
    record["passages"]["window"], record["shapes"] = 65_535, [[1, 65_535]]
    with pytest.raises(DamageError, match="more than a passage may have"):
        Identity.parse(json.dumps(record).encode())


def test_a_newer_version_of_any_number_is_one_short_line(kit: Any) -> None:
    record = forged(json.loads(kit.identity().to_bytes()), "format_version", 10**4000)
    with pytest.raises(MismatchError) as caught:
        Identity.parse(json.dumps(record).encode())
    assert len(one_line(caught.value)) < 200


def test_a_forged_number_of_rows_takes_no_memory(sent: Path) -> None:
    """Two billion rows in the manifest: eight gigabytes of lengths, if anybody believed it."""
    path = sent / FILES["log"]
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    info = next(line["commitInfo"] for line in lines if "commitInfo" in line)
    record = json.loads(info[MANIFEST_KEY])
    for segment in record["segments"].values():
        segment["rows"] = (1 << 31) - 1
    text = json.dumps(record)
    info |= {MANIFEST_KEY: text, CHECKSUM_KEY: hashlib.sha256(text.encode()).hexdigest()}
    path.write_text("\n".join(map(json.dumps, lines)))
    code = (
        "import resource, sys\nfrom glimmer import GlimmerError\nfrom glimmer.storage.memory import Memory\n"
        "from glimmer.storage.verify import verify\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
        "try:\n    Memory.open(sys.argv[1])\nexcept GlimmerError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sent)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "digests.arrow" in done.stdout


# The id map, which carries no digest that anybody recorded.


@pytest.fixture
def map_of(sent: Path) -> Iterator[tuple[Path, Callable[[dict[str, Any]], None]]]:
    look(sent)
    path = sent / "indexes" / "2" / "ids.map"

    def change(values: dict[str, Any]) -> None:
        content = path.read_bytes()
        header = json.loads(content[len(idmap._MAGIC) + 65 : idmap._HEADER_BYTES].split(b"\n")[0]) | values
        text = json.dumps(header, sort_keys=True).encode()
        head = idmap._MAGIC + sha256_bytes(text).encode() + b"\n" + text + b"\n"
        path.write_bytes(head.ljust(idmap._HEADER_BYTES, b"\0") + content[idmap._HEADER_BYTES :])

    return path, change


@pytest.mark.parametrize("rows", [-1, 19, 21, 1 << 40, 1e300, "20", None, True])
def test_an_id_map_that_counts_other_rows_is_built_again(rows: Any, sent: Path, map_of: Any) -> None:
    path, change = map_of
    before = path.read_bytes()
    change({"rows": rows})
    look(sent)
    assert path.read_bytes() == before


def test_an_id_map_that_points_beyond_the_segments_is_built_again(sent: Path, map_of: Any) -> None:
    """Its checksums fit, since whoever sent the memory made it."""
    path, _ = map_of
    before = path.read_bytes()
    catalog, opened = Catalog(sent), Memory.open(sent)
    path.unlink()
    bases = {
        name: (first + (1 << 30), rows)
        for name, (first, rows) in idmap.segment_bases({n: e.rows for n, e in opened.segments.items()}).items()
    }
    idmap.build_id_map(
        path,
        catalog.scan(opened.manifest, idmap.SCAN_COLUMNS),
        rows=20,
        bases=bases,
        content_sha256=opened.manifest.content_sha256,
    )
    assert path.read_bytes() != before
    look(sent)
    assert path.read_bytes() == before


def test_a_passage_with_more_tokens_than_the_window_is_damage(sent: Path) -> None:
    """By an id map whose sums fit: lengths beyond the codes that were read would be believed."""
    opened = Memory.open(sent)
    path = sent / "indexes" / "2" / "ids.map"
    path.unlink()
    place = idmap.SCAN_COLUMNS.index("n_tokens")
    batches = [
        batch.set_column(place, "n_tokens", pa.array([60_000] * batch.num_rows, pa.int32()))
        for batch in Catalog(sent).scan(opened.manifest, idmap.SCAN_COLUMNS)
    ]
    idmap.build_id_map(
        path,
        batches,
        rows=20,
        bases=idmap.segment_bases({name: entry.rows for name, entry in opened.segments.items()}),
        content_sha256=opened.manifest.content_sha256,
    )
    for use in (opened.fetch, opened.texts, opened.token_counts):
        with pytest.raises(DamageError, match="more than the window"):
            use([0, 3])


def test_memory_errors_and_panics_of_libraries_are_damage() -> None:
    class PanicException(BaseException):
        """As pyo3 raises it: the name is all that tells it."""

    for error in (MemoryError(), pa.lib.ArrowMemoryError("realloc"), PanicException("index out of bounds")):

        def use(error: BaseException = error) -> None:
            with translated("f", lambda words: DamageError(f"f: {words}")):
                raise error

        with pytest.raises(DamageError, match="f: "):
            use()

    def interrupted() -> None:
        with translated("f", lambda words: DamageError(words)):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
