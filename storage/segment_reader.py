"""Reading a segment: any passages' codes by one ranged read each, their lengths, their text.

Built for random access, cold: no cache between us and the file, the codes land in the caller's buffer, and many reads
are under way at once. What cannot be read, or fails a checksum, is a RowDamageError that names row and shard.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .. import DamageError, StorageError
from .files import one_line, storage_error
from .passage import SHARD_ROWS, Passage
from .segment_layout import (
    CODES,
    DIGESTS,
    LENGTHS,
    SegmentShape,
    ShardRecord,
    codes_metadata,
    codes_name,
    lengths_metadata,
    lengths_name,
    segment_key,
    text_name,
)
from .segment_writer import open_array, read_digests, wrong_sizes
from .stores import Store
from .text_shards import TextShard

OPEN_TEXT_SHARDS: Final = 256
"""Text shards that a reader of a segment keeps open; each has a file descriptor."""


class RowDamageError(DamageError):
    """A row of a segment cannot be read. `segment`, `row` and `why` say which and what."""

    def __init__(self, segment: str, row: int, why: str) -> None:
        self.segment, self.row, self.why = segment, row, why
        super().__init__(f"segment {segment}, shard {row // SHARD_ROWS}, row {row}: {why}")

    @property
    def shard(self) -> int:
        return self.row // SHARD_ROWS


READING: Final = {
    "cache_pool": {"total_bytes_limit": 0},
    "data_copy_concurrency": {"limit": 1},
    "file_io_concurrency": {"limit": 32},
}
"""TensorStore's resources for reading, one set a process.

No cache pool (a passage is rarely read twice), one thread to copy (more only contend), and enough reads in flight to
keep a disk busy: with the default of four, cold random reads took 1.4 times as long as with 32.
"""


@dataclass
class PendingRead:
    """A read under way; `finish` waits for it and returns the lengths, int32 [n]."""

    finish: Callable[[], npt.NDArray[np.int32]]


class SegmentReader:
    """One sealed segment. Opening touches no file; arrays are opened on the first read. Safe to use from many threads.

    Args:
        store: where the memory is.
        segment: the segment's id.
        shape: rows, window and code bytes, from manifest and memory.json.
        digests_sha256: SHA-256 of `digests.arrow` as the manifest records it.
    """

    def __init__(self, store: Store, segment: str, shape: SegmentShape, digests_sha256: str) -> None:
        self.store, self.segment, self.shape = store, segment, shape
        self.key = segment_key(segment, store.location)
        self._remedy = f"run `glimmer repair {store.location}`"
        self._digests_sha256 = digests_sha256
        self._lock = threading.Lock()
        self._texts: OrderedDict[int, TextShard] = OrderedDict()
        self._length_table: tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]] | None = None

    @cached_property
    def records(self) -> list[ShardRecord]:
        """What the job that wrote the segment recorded of each shard; raises DamageError if that is not readable."""
        key = f"{self.key}/{DIGESTS}"
        records = read_digests(self.store, key, self._digests_sha256, self._remedy, shards=self.shape.shards)
        if [record.rows for record in records] != [self.shape.shard_rows(n) for n in range(self.shape.shards)]:
            raise DamageError(
                f"its shards are not those of {self.shape}", where=self.store.name(key), remedy=self._remedy
            )
        return records

    @cached_property
    def _codes_array(self) -> Any:
        return open_array(self.store, f"{self.key}/{CODES}", codes_metadata(self.shape), READING)

    @cached_property
    def _lengths_array(self) -> Any:
        return open_array(self.store, f"{self.key}/{LENGTHS}", lengths_metadata(self.shape), READING)

    def wrong_sizes(self) -> list[tuple[int, str]]:
        """(shard, what is wrong) for every file that is missing or of another size; one listing a directory."""
        return wrong_sizes(self.store, self.key, self.records)

    def start(
        self, rows: npt.NDArray[np.int64], out: npt.NDArray[np.uint8], target: npt.NDArray[np.int64]
    ) -> PendingRead:
        """Starts reading the codes of `rows` into `out[target]`, and their lengths.

        Args:
            rows: int64 [n], best ascending, may repeat.
            out: uint8 [m, window, code_bytes], C-contiguous.
            target: int64 [n], distinct.
        """
        codes = self._start_codes(rows, out, target)  # first: they take longest
        lengths = self._start_lengths(rows)

        def finish() -> npt.NDArray[np.int32]:
            codes()
            return lengths()

        return PendingRead(finish)

    def codes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """uint8 [n, window, code_bytes]: codes of `rows` in any order; raises RowDamageError. Lengths are not read."""
        out = np.empty((len(rows), self.shape.window, self.shape.code_bytes), np.uint8)
        self._start_codes(rows, out, np.arange(len(rows)))()
        return out

    def _start_codes(
        self, rows: npt.NDArray[np.int64], out: npt.NDArray[np.uint8], target: npt.NDArray[np.int64]
    ) -> Callable[[], None]:
        import tensorstore as ts

        whole = len(target) == len(out) and bool(np.all(target == np.arange(len(out))))
        destination = ts.array(out)[...] if whole else ts.array(out)[target]
        writing = destination.write(self._codes_array[rows])

        def finish() -> None:
            try:
                writing.result()
            except ValueError as error:
                raise self._codes_damage(rows, error) from error

        return finish

    def lengths(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """int32 [n]: the stored lengths of `rows`; each chunk is read once and kept. Raises RowDamageError."""
        return self._start_lengths(rows)()

    def _start_lengths(self, rows: npt.NDArray[np.int64]) -> Callable[[], npt.NDArray[np.int32]]:
        lengths, known = self._lengths()
        shards = np.unique(rows // SHARD_ROWS)
        reads = []
        for shard in shards[~known[shards]].tolist():
            span = slice(shard * SHARD_ROWS, shard * SHARD_ROWS + self.shape.shard_rows(shard))
            reads.append((shard, span, self._lengths_array[span].read()))

        def finish() -> npt.NDArray[np.int32]:
            for shard, span, read in reads:
                try:
                    lengths[span] = read.result()
                except ValueError as error:
                    row = int(rows[np.argmax(rows // SHARD_ROWS == shard)])
                    raise self._row_damage(row, lengths_name(shard), error) from error
                known[shard] = True
            return lengths[rows]

        return finish

    def _lengths(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Lengths int32 [rows] and whether they were read, bool [shards]; filled shard by shard, allotted when needed.

        So a forged number of rows is found by the look at `digests.arrow` before anything is allotted for it.
        """
        with self._lock:
            if self._length_table is None:
                self._length_table = np.zeros(self.shape.rows, np.int32), np.zeros(self.shape.shards, bool)
            return self._length_table

    def _codes_damage(self, rows: npt.NDArray[np.int64], error: Exception) -> Exception:
        """Reads row by row to say which one it is; only on the way to an error."""
        for row in np.unique(rows).tolist():
            try:
                self._codes_array[row].read().result()
            except ValueError as specific:
                return self._row_damage(row, codes_name(row // SHARD_ROWS), specific)
        # It can be read now: the disk or the network failed for a moment.
        where = self.store.name(self.key)
        return storage_error(where, error) or StorageError(one_line(error), where=where)

    def _row_damage(self, row: int, name: str, error: Exception) -> Exception:
        where = self.store.name(f"{self.key}/{name}")
        return storage_error(where, error) or RowDamageError(self.segment, row, f"{name}: {one_line(error)}")

    def passage(self, row: int) -> Passage:
        """The passage in `row` as planned, checksum checked; raises RowDamageError."""
        shard = row // SHARD_ROWS
        try:
            passage = self._text_shard(shard).passage(row % SHARD_ROWS)
        except DamageError as error:
            raise RowDamageError(self.segment, row, str(error)) from error
        return passage

    def open_text(self, shard: int) -> TextShard:
        """The text of `shard`, opened anew; raises DamageError."""
        return TextShard(self.store, f"{self.key}/{text_name(shard)}", self._remedy)

    def _text_shard(self, shard: int) -> TextShard:
        with self._lock:
            text = self._texts.pop(shard, None)
            if text is None:
                text = self.open_text(shard)
                if text.rows != self.shape.shard_rows(shard):
                    raise DamageError(f"has {text.rows} rows, expected {self.shape.shard_rows(shard)}", where=text.path)
            self._texts[shard] = text
            while len(self._texts) > OPEN_TEXT_SHARDS:
                self._texts.popitem(last=False)
            return text
