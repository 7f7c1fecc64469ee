"""Names, numbers and metadata of a segment on disk, shared by those who write, read and verify it.

A segment is what one committed job wrote, immutable afterwards: `segments/<id>/` is a Zarr v3 group with the arrays
`codes` and `lengths`, `text/<shard>.arrow` beside them, and `digests.arrow`, which lists size and SHA-256 of every
shard and whose own SHA-256 stands in the commit. The Zarr metadata follows from rows, window and code bytes alone, so
readers never trust the copy on disk; it is there for other tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import DamageError, UsageError
from .passage import SHARD_ROWS

SEGMENTS = "segments"
TEXT = "text"
CODES = "codes"
LENGTHS = "lengths"
DIGESTS = "digests.arrow"

_MAX_ROWS = (1 << 31) - 1
_MAX_SEGMENT_BYTES = 1 << 62  # of codes; larger ones are beyond TensorStore's indices
_MAX_COUNT = 1 << 53
_SEGMENT_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def check_segment_id(segment: str) -> str:
    """Returns `segment` if it is a safe name (lower-case letters, digits, hyphens, at most 64); raises UsageError."""
    if _SEGMENT_ID.fullmatch(segment) is None:
        raise UsageError(f"segment id {segment!r} is not made of lower-case letters, digits and hyphens (at most 64)")
    return segment


def is_segment_id(name: str) -> bool:
    """Whether `name` may be a segment's."""
    return _SEGMENT_ID.fullmatch(name) is not None


def segment_key(segment: str, location: object) -> str:
    """`segments/<segment>`; a name that could lead elsewhere, read from a damaged catalog, is damage at `location`."""
    if _SEGMENT_ID.fullmatch(segment) is None:
        raise DamageError(
            f"{location}: the catalog names an impossible segment {segment!r}; run `glimmer verify {location}`"
        )
    return f"{SEGMENTS}/{segment}"


@dataclass(frozen=True, kw_only=True)
class SegmentShape:
    """The shape of a segment: `rows` passages of at most `window` tokens of `code_bytes` bytes each."""

    rows: int
    window: int
    code_bytes: int

    def __post_init__(self) -> None:
        if min(self.rows, self.window, self.code_bytes) < 1:
            raise UsageError(f"a segment needs at least one row, token and byte, not {self}")
        if self.rows > _MAX_ROWS or self.rows * self.window * self.code_bytes > _MAX_SEGMENT_BYTES:
            raise DamageError(f"a segment of {self} is larger than there can be; restore the memory from a copy")

    @property
    def shards(self) -> int:
        return -(-self.rows // SHARD_ROWS)

    def shard_rows(self, shard: int) -> int:
        """Rows in `shard`: 1,024, fewer in the last."""
        if not 0 <= shard < self.shards:
            raise UsageError(f"shard {shard} is not in 0..{self.shards - 1}")
        return min(SHARD_ROWS, self.rows - shard * SHARD_ROWS)


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What one finished shard is: sizes in bytes and SHA-256 (hex) of its three files, rows, live tokens."""

    shard: int
    rows: int
    tokens: int
    codes_bytes: int
    codes_sha256: str
    lengths_bytes: int
    lengths_sha256: str
    text_bytes: int
    text_sha256: str

    @property
    def bytes(self) -> int:
        return self.codes_bytes + self.lengths_bytes + self.text_bytes

    def to_json(self) -> dict[str, int | str]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, record: object) -> ShardRecord:
        """Strict inverse of `to_json`; raises ValueError naming what is wrong."""
        if not isinstance(record, Mapping) or set(record) != set(cls.__dataclass_fields__):
            raise ValueError("is not a shard record")
        for name, value in record.items():
            if name.endswith("sha256"):
                if not is_sha256(value):
                    raise ValueError(f"{name} is not a SHA-256")
            elif isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COUNT:
                raise ValueError(f"{name} is not a count")
        return cls(**record)


def is_sha256(value: object) -> bool:
    """Whether `value` is 64 lower-case hex digits."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def text_name(shard: int) -> str:
    """File name of a text shard, relative to the segment."""
    return f"{TEXT}/{shard}.arrow"


def codes_name(shard: int) -> str:
    """Zarr key of a codes shard, relative to the segment."""
    return f"{CODES}/c.{shard}.0.0"


def lengths_name(shard: int) -> str:
    """Zarr key of a lengths chunk, relative to the segment."""
    return f"{LENGTHS}/c.{shard}"


def group_metadata() -> dict[str, Any]:
    """The segment's `zarr.json`."""
    return {"zarr_format": 3, "node_type": "group", "attributes": {}}


def codes_metadata(shape: SegmentShape) -> dict[str, Any]:
    """`codes/zarr.json`: uint8 (rows, window, code_bytes), a shard of 1,024 rows, an inner chunk per passage."""
    inner = [1, shape.window, shape.code_bytes]
    sharding = {
        "chunk_shape": inner,
        "codecs": [
            {"name": "bytes"},
            {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
            {"name": "crc32c"},
        ],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "end",
    }
    return _array_metadata(
        shape=[shape.rows, shape.window, shape.code_bytes],
        data_type="uint8",
        chunk_shape=[SHARD_ROWS, *inner[1:]],
        codecs=[{"name": "sharding_indexed", "configuration": sharding}],
    )


def lengths_metadata(shape: SegmentShape) -> dict[str, Any]:
    """`lengths/zarr.json`: int32 (rows,), chunks of 1,024 rows."""
    return _array_metadata(
        shape=[shape.rows],
        data_type="int32",
        chunk_shape=[SHARD_ROWS],
        codecs=[{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    )


def _array_metadata(
    *, shape: list[int], data_type: str, chunk_shape: list[int], codecs: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": codecs,
        "attributes": {},
    }


def metadata_files(shape: SegmentShape) -> dict[str, bytes]:
    """Every `zarr.json` of a segment: path relative to the segment -> exact content."""
    documents = {
        "zarr.json": group_metadata(),
        f"{CODES}/zarr.json": codes_metadata(shape),
        f"{LENGTHS}/zarr.json": lengths_metadata(shape),
    }
    return {name: (json.dumps(document, indent=2) + "\n").encode() for name, document in documents.items()}
