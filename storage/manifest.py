"""The manifest: what one version of a memory consists of, recorded inside its Delta commit.

Delta says which catalog files are live; it does not say whether their bytes, or the segments they point to, are what
was written. So every commit carries, in its commit metadata, the complete list of live catalog files and segments with
their SHA-256, the job that made it, and the SHA-256 of the log entry before it. The manifest is stored as text with
its own SHA-256 beside it: a flipped bit in it is found before anything in it is believed.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import UsageError
from .files import sha256_bytes
from .segment_layout import is_sha256

MANIFEST_KEY = "glimmer"
CHECKSUM_KEY = "glimmer_sha256"
"""Keys in Delta's commitInfo: the manifest's text, and the SHA-256 of that text."""

FORMAT = 1
FILE_ROWS_LIMIT = 1_000_000
"""Rows of a catalog file at most."""
MAX_ENTRY_BYTES = 64 << 20
"""Bytes of a log entry at most; a manifest is less."""

_MAX_SEGMENT_ROWS = (1 << 31) - 1  # a row number is an int32
_MAX_WINDOW = (1 << 16) - 1
_MAX_COUNT = 1 << 53
_FILE_NAME = re.compile(r"part-[0-9]{5}-[0-9a-f]{32}\.parquet")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


@dataclass(frozen=True, kw_only=True)
class CatalogFile:
    """One live Parquet file of the catalog: name, bytes, rows, tokens, SHA-256, and rows per segment."""

    name: str
    bytes: int
    rows: int
    tokens: int
    sha256: str
    segments: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class SegmentEntry:
    """A segment that live rows point to: rows ever written, their tokens, bytes on disk, digest of its digests."""

    rows: int
    tokens: int
    bytes: int
    digests_sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One version of a memory.

    Attributes:
        version: Delta's version; 0 is the empty memory.
        time: when it was committed, UTC, ISO 8601; never earlier than the version before, whatever the clock did.
        operation: "create", "encode", "refresh", "rollback", "compact" …
        job: id of the job that made it.
        files: live catalog files, sorted by name.
        segments: segment id -> entry, for every segment that a live row points to.
        rows_added, rows_removed: passages this version added and removed, as the job counted them.
        identity_sha256: SHA-256 of memory.json.
        previous_sha256: SHA-256 of the whole Delta log entry of the version before; "" for version 0.
        details: what else the job wants to be remembered; JSON-able.
    """

    version: int
    time: str
    operation: str
    job: str
    files: tuple[CatalogFile, ...]
    segments: Mapping[str, SegmentEntry]
    rows_added: int
    rows_removed: int
    identity_sha256: str
    previous_sha256: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passages(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def tokens(self) -> int:
        return sum(file.tokens for file in self.files)

    @property
    def live_rows(self) -> dict[str, int]:
        """Segment id -> its rows that are live, for every segment of `segments`."""
        live = dict.fromkeys(self.segments, 0)
        for file in self.files:
            for segment, rows in file.segments.items():
                live[segment] += rows
        return live

    @property
    def content_sha256(self) -> str:
        """SHA-256 over files and segments: equal exactly when two versions hold the same live files."""
        return sha256_bytes(_canonical({"files": _files_json(self.files), "segments": _segments_json(self.segments)}))

    def to_text(self) -> str:
        """Canonical JSON, the form that is stored and hashed."""
        record = {
            "format": FORMAT,
            "version": self.version,
            "time": self.time,
            "operation": self.operation,
            "job": self.job,
            "files": _files_json(self.files),
            "segments": _segments_json(self.segments),
            "rows_added": self.rows_added,
            "rows_removed": self.rows_removed,
            "identity_sha256": self.identity_sha256,
            "previous_sha256": self.previous_sha256,
            "details": self.details,
        }
        return _canonical(record).decode()

    def commit_metadata(self) -> dict[str, str]:
        """The two entries for Delta's commitInfo; UsageError for what no reader would accept."""
        text = self.to_text()
        if len(text.encode()) > MAX_ENTRY_BYTES // 2:  # its quotes are escaped in the entry, and Delta lists files too
            raise UsageError(
                f"a version of {len(self.files):,} catalog files is too large to record; run `glimmer compact`"
            )
        try:
            self._parse(json.loads(text))
        except ValueError as error:
            raise UsageError(f"a version that nobody could read: {error}") from error
        return {MANIFEST_KEY: text, CHECKSUM_KEY: sha256_bytes(text.encode())}

    @classmethod
    def from_commit(cls, info: Mapping[str, Any], version: int) -> Manifest:
        """The manifest in a commitInfo; raises ValueError saying what is wrong: checksum, version, a bad field."""
        text, checksum = info.get(MANIFEST_KEY), info.get(CHECKSUM_KEY)
        if not isinstance(text, str) or not isinstance(checksum, str):
            raise ValueError("the commit carries no manifest")
        if sha256_bytes(text.encode()) != checksum:
            raise ValueError("the manifest fails its checksum")
        manifest = cls._parse(json.loads(text, parse_constant=_no_constant))
        if manifest.version != version:
            raise ValueError(f"the manifest is of version {manifest.version}")
        return manifest

    @classmethod
    def _parse(cls, record: Any) -> Manifest:
        _keys(record, {"format", *cls.__dataclass_fields__}, "manifest")
        if record["format"] != FORMAT:
            raise ValueError(f"manifest format {record['format']!r} is not {FORMAT}; a newer Glimmer wrote it")
        for key in ("version", "rows_added", "rows_removed"):
            _count(record[key], key)
        for key, pattern in (("time", _TIME), ("operation", _NAME), ("job", _NAME)):
            if not isinstance(record[key], str) or pattern.fullmatch(record[key]) is None:
                raise ValueError(f"{key} is {record[key]!r:.80}")
        if not is_time(record["time"]):
            raise ValueError(f"time is {record['time']!r}, no date in the years 1970 to 2999")
        if not is_sha256(record["identity_sha256"]) or not (
            is_sha256(record["previous_sha256"]) or record["previous_sha256"] == ""
        ):
            raise ValueError("a digest is malformed")
        if not isinstance(record["details"], dict) or not isinstance(record["segments"], dict):
            raise ValueError("details or segments is not an object")
        segments = {name: _segment(name, entry) for name, entry in record["segments"].items()}
        if not isinstance(record["files"], list):
            raise ValueError("files is not a list")
        files = tuple(_file(entry, segments) for entry in record["files"])
        if [file.name for file in files] != sorted({file.name for file in files}):
            raise ValueError("files are not sorted or not unique")
        values = {name: record[name] for name in cls.__dataclass_fields__}
        manifest = cls(**values | {"files": files, "segments": segments})
        for name, live in manifest.live_rows.items():
            if not 0 < live <= segments[name].rows:
                raise ValueError(f"{live} rows of segment {name} are live, of {segments[name].rows} that it has")
        return manifest


def largest_bytes(rows: int) -> int:
    """Bytes of a catalog file of so many rows at most, compressed or not: 1 MiB and 4 KiB a row."""
    return (1 << 20) + 4096 * rows


def is_time(value: str) -> bool:
    """Whether `value`, of the right form, is a time that there can be: a real date in the years 1970 to 2999."""
    try:
        return 1970 <= datetime.datetime.fromisoformat(value).year < 3000
    except ValueError:
        return False


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def commit_time(after: str | None) -> str:
    """The time for a manifest: UTC, and at least a microsecond after `after`, whatever the clock says."""
    now = datetime.datetime.now(datetime.UTC)
    if after is not None:
        now = max(now, datetime.datetime.fromisoformat(after) + datetime.timedelta(microseconds=1))
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def check_name(value: str) -> bool:
    """Whether `value` may be a job id or an operation: lower-case letters, digits, hyphens, at most 64."""
    return _NAME.fullmatch(value) is not None


def is_catalog_file_name(name: str) -> bool:
    """Whether `name` is one that catalog files have: `part-<number>-<uuid>.parquet`."""
    return _FILE_NAME.fullmatch(name) is not None


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _files_json(files: tuple[CatalogFile, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": file.name,
            "bytes": file.bytes,
            "rows": file.rows,
            "tokens": file.tokens,
            "sha256": file.sha256,
            "segments": dict(file.segments),
        }
        for file in files
    ]


def _segments_json(segments: Mapping[str, SegmentEntry]) -> dict[str, Any]:
    return {
        name: {"rows": e.rows, "tokens": e.tokens, "bytes": e.bytes, "digests_sha256": e.digests_sha256}
        for name, e in segments.items()
    }


def _keys(record: Any, keys: set[str], what: str) -> None:
    if not isinstance(record, dict) or set(record) != keys:
        raise ValueError(f"{what} does not have the keys {sorted(keys)}")


def _count(value: Any, what: str, most: int = _MAX_COUNT) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{what} is {value!r:.40}, not a count up to {most}")


def _segment(name: str, entry: Any) -> SegmentEntry:
    _keys(entry, set(SegmentEntry.__dataclass_fields__), "segment")
    _count(entry["rows"], f"rows of segment {name:.80}", _MAX_SEGMENT_ROWS)
    _count(entry["tokens"], f"tokens of segment {name:.80}", _MAX_WINDOW * entry["rows"])
    _count(entry["bytes"], f"bytes of segment {name:.80}")
    if _NAME.fullmatch(name) is None or not is_sha256(entry["digests_sha256"]):
        raise ValueError(f"segment {name!r:.80} is malformed")
    return SegmentEntry(**entry)


def _file(entry: Any, segments: Mapping[str, SegmentEntry]) -> CatalogFile:
    _keys(entry, set(CatalogFile.__dataclass_fields__), "file")
    if not isinstance(entry["name"], str) or _FILE_NAME.fullmatch(entry["name"]) is None:
        raise ValueError(f"catalog file name {entry['name']!r:.80} is malformed")
    _count(entry["rows"], f"rows of {entry['name']}", FILE_ROWS_LIMIT)
    _count(entry["tokens"], f"tokens of {entry['name']}", _MAX_WINDOW * entry["rows"])
    _count(entry["bytes"], f"bytes of {entry['name']}", largest_bytes(entry["rows"]))
    if not is_sha256(entry["sha256"]) or not isinstance(entry["segments"], dict):
        raise ValueError(f"{entry['name']} is malformed")
    for name, rows in entry["segments"].items():
        _count(rows, f"rows of {entry['name']}")
        if name not in segments:
            raise ValueError(f"{entry['name']} points to segment {name!r:.80}, which the manifest does not list")
    if sum(entry["segments"].values()) != entry["rows"]:
        raise ValueError(f"{entry['name']} has other rows in all than in its segments")
    return CatalogFile(**entry)
