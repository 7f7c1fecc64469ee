"""Numbers and dates that a memory's own checksums vouch for, forged by whoever sent it: the format's limits hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hostile import look, one_line

from glimmer import DamageError, MismatchError, UsageError
from glimmer.storage import idmap
from glimmer.storage.catalog import Catalog
from glimmer.storage.files import sha256_bytes, translated
from glimmer.storage.identity import Identity
from glimmer.storage.manifest import CHECKSUM_KEY, MANIFEST_KEY, CatalogFile, Manifest, SegmentEntry
from glimmer.storage.memory import Memory
from glimmer.storage.verify import verify

pytestmark = pytest.mark.timeout(120)


LOG = f"passages/_delta_log/{2:020d}.json"

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


def test_fifty_million_rows_in_a_small_file_are_refused_by_the_manifest() -> None:
    record = json.loads(manifest().to_text())
    record["files"][0] |= {"rows": 50_000_000, "segments": {"s": 50_000_000}}
    record["segments"]["s"]["rows"] = 50_000_000
    with pytest.raises(ValueError, match="rows of part-"):
        parsed(record)


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
    path = sent / LOG
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
    path = sent / LOG
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
def map_of(sent: Path) -> tuple[Path, Callable[[dict[str, Any]], None]]:
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
        opened.store,
        f"{opened.index_key}/ids.map",
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
        opened.store,
        f"{opened.index_key}/ids.map",
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
