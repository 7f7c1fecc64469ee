"""Writing a segment: text while a job is planned, codes and lengths shard by shard as it encodes, then the seal.

Every step is whole or absent and may be repeated: a job that is killed runs the same steps again and ends with equal
bytes. Sealing lists size and SHA-256 of each shard in `digests.arrow`; a sealed segment is never written again.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .. import ConflictError, DamageError, StorageError, UsageError
from .arrow_messages import read_single_batch
from .files import sha256_bytes, translated
from .passage import SHARD_ROWS, Passage
from .segment_layout import (
    CODES,
    DIGESTS,
    LENGTHS,
    SEGMENTS,
    TEXT,
    SegmentShape,
    ShardRecord,
    check_segment_id,
    codes_metadata,
    codes_name,
    lengths_metadata,
    lengths_name,
    metadata_files,
    text_name,
)
from .stores import Place, Store, open_store
from .text_shards import TextShard, text_shard

_DIGEST_FIELDS = [
    pa.field(name, pa.string() if name.endswith("sha256") else pa.int64(), nullable=False)
    for name in ShardRecord.__dataclass_fields__
]
DIGEST_SCHEMA = pa.schema(_DIGEST_FIELDS)
"""Columns of `digests.arrow`: the fields of ShardRecord, one row a shard, in shard order."""

UNCACHED: Final = {"cache_pool": {"total_bytes_limit": 0}}
"""Settings of a TensorStore context in which shards are written: each is written once."""

_DIGESTS_BYTES, _DIGEST_BYTES = 1 << 16, 512
"""`digests.arrow` has at most so many bytes, and so many for each shard."""


@dataclass(frozen=True, kw_only=True)
class SealedSegment:
    """A finished segment as a commit records it: rows, tokens, bytes on disk, and the SHA-256 of `digests.arrow`."""

    segment: str
    rows: int
    tokens: int
    bytes: int
    digests_sha256: str


class SegmentWriter:
    """Writes `segments/<segment>/` of the memory at `memory`; the caller derives `segment` from its job's id.

    Safe to open again after a crash, and from many processes as long as no two write the same shard at once.
    """

    def __init__(self, memory: Place, segment: str) -> None:
        self.store = open_store(memory)
        self.segment = check_segment_id(segment)
        self.key = f"{SEGMENTS}/{segment}"
        self.name = self.store.name(self.key)
        self._shape: SegmentShape | None = None
        self._arrays: tuple[Any, Any] | None = None

    @property
    def sealed(self) -> bool:
        """Whether the segment is finished; nothing can be written to it then."""
        return self.store.is_file(f"{self.key}/{DIGESTS}")

    def _check_open(self) -> None:
        if self.sealed:
            raise ConflictError(
                "the segment is sealed", where=self.name, remedy="a sealed segment is never written again"
            )

    # Planning: text.

    def write_text(self, shard: int, passages: Sequence[Passage]) -> None:
        """Writes the text of `shard` (rows `shard * 1024 …`): 1,024 passages, fewer only in the last shard."""
        self._check_open()
        self.store.put(f"{self.key}/{text_name(shard)}", text_shard(passages))

    def read_text(self, shard: int) -> list[Passage]:
        """The passages of `shard` as planned, each row's checksum checked."""
        return self.open_text(shard).passages()

    def discard(self) -> None:
        """Deletes the segment, which no commit names."""
        self.store.delete_tree(self.key)

    def open_text(self, shard: int) -> TextShard:
        """The text of `shard` as planned; its rows are checked when they are read. Raises DamageError."""
        return TextShard(self.store, f"{self.key}/{text_name(shard)}", "plan the job again")

    def read_rows(self, rows: Sequence[int]) -> list[Passage]:
        """The passages in `rows`, ascending, as planned, each checked; opens only the shards that hold them."""
        return [
            shard.passage(row % SHARD_ROWS)
            for number, group in itertools.groupby(rows, key=lambda row: row // SHARD_ROWS)
            for shard in (self.open_text(number),)
            for row in group
        ]

    # Encoding: codes and lengths.

    def create_arrays(self, rows: int, window: int, code_bytes: int) -> None:
        """Writes the group's and both arrays' metadata; repeating it with the same numbers is harmless.

        Raises ConflictError when the segment already has another shape.
        """
        shape = SegmentShape(rows=rows, window=window, code_bytes=code_bytes)
        for name, content in metadata_files(shape).items():
            key = f"{self.key}/{name}"
            if not self.store.exists(key):
                self.store.put(key, content)
            elif self.store.read(key, most=len(content) + 4096) != content:
                raise ConflictError(
                    f"{self.store.name(key)}: the segment exists with another shape; start the job under another id"
                )
        self._shape, self._arrays = shape, None

    def write_shard(self, shard: int, codes: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int32]) -> ShardRecord:
        """Writes one whole shard of codes and of lengths; atomic, flushed, idempotent.

        Args:
            shard: the shard's number; `create_arrays` has been called, and the shard's text is written.
            codes: uint8 [n, window, code_bytes] with n the rows of this shard. Codes beyond a passage's length are set
                to zero, in place where the array can be written, so equal passages give equal bytes.
            lengths: int32 [n], tokens of each passage, 1 to window; they must be those of the shard's text.

        Returns the shard's record for the ledger. Raises UsageError for wrong shapes or lengths, StorageError when the
        file system refuses; nothing of the shard is visible then, or the whole of an earlier equal write.
        """
        if self._shape is None:
            raise UsageError("create_arrays comes before write_shard", where=self.name)
        self._check_open()
        shape, rows = self._shape, self._shape.shard_rows(shard)
        if codes.dtype != np.uint8 or codes.shape != (rows, shape.window, shape.code_bytes):
            raise UsageError(
                f"{self.name}: shard {shard} takes uint8 {(rows, shape.window, shape.code_bytes)}, "
                f"not {codes.dtype} {codes.shape}"
            )
        if lengths.shape != (rows,) or not np.issubdtype(lengths.dtype, np.integer):
            raise UsageError(f"shard {shard} takes {rows} integer lengths, not {lengths.shape}", where=self.name)
        if not np.array_equal(self.open_text(shard).lengths(), lengths):
            raise UsageError(f"lengths of shard {shard} are not those of its text", where=self.name)
        if int(lengths.min()) < 1 or int(lengths.max()) > shape.window:
            raise UsageError(f"shard {shard} has a passage outside 1..{shape.window} tokens", where=self.name)
        import tensorstore as ts

        codes = _zero_beyond(codes, lengths)
        start = shard * SHARD_ROWS
        codes_array, lengths_array = self._open_arrays()
        for array, values in ((codes_array, codes), (lengths_array, lengths.astype(np.int32, copy=False))):
            # One transaction makes one write of the whole shard object: locally to a temporary name, flushed, renamed.
            with (
                translated(self.name, lambda text: StorageError(f"shard {shard}: {text}", where=self.name)),
                ts.Transaction() as transaction,
            ):
                array.with_transaction(transaction)[start : start + rows].write(values).result()
        return self.record(shard, int(lengths.sum(dtype=np.int64)))

    def record(self, shard: int, tokens: int) -> ShardRecord:
        """Sizes and digests of the files of `shard` as they are on disk now."""
        if self._shape is None:
            raise UsageError("create_arrays comes before record", where=self.name)
        names = (codes_name(shard), lengths_name(shard), text_name(shard))
        with translated(self.name, lambda text: StorageError(f"shard {shard}: {text}", where=self.name)):
            codes, lengths, text = (self.store.sha256(f"{self.key}/{name}") for name in names)
        return ShardRecord(
            shard=shard,
            rows=self._shape.shard_rows(shard),
            tokens=tokens,
            codes_sha256=codes[0],
            codes_bytes=codes[1],
            lengths_sha256=lengths[0],
            lengths_bytes=lengths[1],
            text_sha256=text[0],
            text_bytes=text[1],
        )

    def _open_arrays(self) -> tuple[Any, Any]:
        if self._arrays is None:
            assert self._shape is not None
            self._arrays = (
                open_array(self.store, f"{self.key}/{CODES}", codes_metadata(self._shape), UNCACHED),
                open_array(self.store, f"{self.key}/{LENGTHS}", lengths_metadata(self._shape), UNCACHED),
            )
        return self._arrays

    # The seal.

    def seal(self, records: Iterable[ShardRecord]) -> SealedSegment:
        """Finishes the segment: checks that every shard is there with its recorded sizes, writes `digests.arrow`.

        Idempotent for equal records. Raises DamageError naming the first shard that is missing or of another size.
        """
        if self._shape is None:
            raise UsageError("create_arrays comes before seal", where=self.name)
        by_shard = {record.shard: record for record in records}
        expected = range(self._shape.shards)
        missing = [shard for shard in expected if shard not in by_shard]
        if missing or len(by_shard) != len(expected):
            raise DamageError(
                f"{self.name}: {len(missing)} of {len(expected)} shards have no record"
                f"{f', first {missing[0]}' if missing else ''}; run the same command again"
            )
        ordered = [by_shard[shard] for shard in expected]
        wrong = next(iter(wrong_sizes(self.store, self.key, ordered)), None)
        if wrong is not None:
            raise DamageError(f"shard {wrong[0]}: {wrong[1]}", where=self.name, remedy="run the same command again")
        for record in ordered:
            if record.rows != self._shape.shard_rows(record.shard):
                raise DamageError(f"shard {record.shard} has {record.rows} rows in its record", where=self.name)
        content = digest_file(ordered)
        key = f"{self.key}/{DIGESTS}"
        if not self.store.exists(key):
            self.store.put(key, content)
        elif self.store.read(key, most=2 * len(content)) != content:
            raise ConflictError("the segment is sealed with other shards", where=self.store.name(key))
        return SealedSegment(
            segment=self.segment,
            rows=self._shape.rows,
            tokens=sum(record.tokens for record in ordered),
            bytes=sum(record.bytes for record in ordered),
            digests_sha256=sha256_bytes(content),
        )


def open_array(store: Store, key: str, metadata: dict[str, Any], settings: Mapping[str, Any]) -> Any:
    """The Zarr array at `key` through TensorStore, in a context of `settings`.

    Its metadata is given, so a bad `zarr.json` cannot mislead.
    """
    import tensorstore as ts

    spec = {
        "driver": "zarr3",
        "kvstore": store.kvstore(key),
        "metadata": metadata,
        "store_data_equal_to_fill_value": True,  # or an all-zero chunk would be left out …
        "fill_missing_data_reads": False,  # … and a missing chunk would read as zeros
    }
    with store.refusals(key):
        return ts.open(spec, open=True, assume_metadata=True, context=store.context(settings)).result()


def wrong_sizes(store: Store, segment_key: str, records: Sequence[ShardRecord]) -> list[tuple[int, str]]:
    """(shard, what is wrong) for every file of `records` that is missing or of another size; one listing a folder.

    Of a segment in a bucket one listing in all.
    """
    found: list[tuple[int, str]] = []
    listed = {entry.key: entry for entry in store.walk(segment_key)} if store.remote else {}
    for folder, name, size in (
        (CODES, codes_name, "codes_bytes"),
        (LENGTHS, lengths_name, "lengths_bytes"),
        (TEXT, text_name, "text_bytes"),
    ):
        if not store.remote:
            listed = {entry.key: entry for entry in store.entries(f"{segment_key}/{folder}")}
        for record in records:
            file, wanted = name(record.shard), getattr(record, size)
            present = listed.get(f"{segment_key}/{file}")
            if present is None or present.kind != "file":
                found.append((record.shard, f"{file} is missing"))
            elif present.size != wanted:
                found.append((record.shard, f"{file} has {present.size} bytes, expected {wanted}"))
    return sorted(found)


def _zero_beyond(codes: npt.NDArray[np.uint8], lengths: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
    if not codes.flags.writeable:
        codes = codes.copy()
    for row, length in enumerate(lengths.tolist()):
        codes[row, length:] = 0
    return codes


def digest_file(records: Sequence[ShardRecord]) -> bytes:
    """The content of `digests.arrow` for the records of all shards, in shard order; equal records, equal bytes."""
    columns = {name: [getattr(record, name) for record in records] for name in ShardRecord.__dataclass_fields__}
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, DIGEST_SCHEMA) as writer:
        writer.write_table(pa.table(columns, DIGEST_SCHEMA), max_chunksize=len(records))
    return sink.getvalue()


def read_digests(store: Store, key: str, sha256: str, remedy: str, *, shards: int) -> list[ShardRecord]:
    """The records in the `digests.arrow` at `key`, whose SHA-256 must be `sha256`; raises DamageError otherwise.

    `shards` is how many there are to be: a file that is far too large for them is not read.
    """
    path = store.name(key)
    with translated(path, lambda text: DamageError(text, where=path, remedy=remedy)):
        content = store.read(key, most=_DIGESTS_BYTES + _DIGEST_BYTES * shards)
        if sha256_bytes(content) != sha256:
            raise DamageError("its SHA-256 is not the one the commit records", where=path, remedy=remedy)
        batch = read_single_batch(pa.py_buffer(content), DIGEST_SCHEMA, most_rows=shards)
        batch.validate(full=True)
        columns = batch.to_pydict()
        # The digest vouches for every value, so 20,000 shards need no second look.
        return [ShardRecord(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
