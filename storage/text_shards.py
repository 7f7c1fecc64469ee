"""Text shards: the passages of up to 1,024 rows in one Arrow IPC file, memory-mapped, every row checked as it is read.

Arrow trusts the offsets in a file, so a flipped bit could read outside a buffer. Here the columns are read through
numpy views with bounds checked, and a row counts only if its CRC-32 (`Passage.checksum`) agrees: a damaged row is an
error that names it, never a crash and never wrong text.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .. import DamageError, UsageError
from .arrow_messages import read_single_batch
from .files import damage, translated
from .passage import PASSAGE_SCHEMA, SHARD_ROWS, Passage, passage_batch
from .stores import Store

_TEXT_COLUMNS = ("passage_id", "article_id", "title", "text", "content_hash")
_INTEGER_COLUMNS = ("start_paragraph_id", "start_character", "end_paragraph_id", "end_character")


def text_shard(passages: Sequence[Passage]) -> bytes:
    """The content of a text shard of 1 to 1,024 passages; equal passages, equal bytes.

    Raises UsageError for passages that cannot be stored.
    """
    if not 1 <= len(passages) <= SHARD_ROWS:
        raise UsageError(f"a text shard holds 1 to {SHARD_ROWS} passages, not {len(passages)}")
    batch = passage_batch(passages)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, PASSAGE_SCHEMA) as writer:
        writer.write_batch(batch)
    return memoryview(sink.getvalue()).tobytes()


class TextShard:
    """One text shard, open, and memory-mapped where the store can. Rows are checked when they are read, not before.

    `key` is the file in `store`; `remedy` ends the message of a DamageError.
    """

    def __init__(self, store: Store, key: str, remedy: str = "run `glimmer verify`") -> None:
        path = store.name(key)
        with translated(path, damage(path, remedy)):
            try:
                content = store.buffer(key)
            except FileNotFoundError:
                raise DamageError("the text shard is missing", where=path, remedy=remedy) from None
        self._open(content, path, remedy)

    @classmethod
    def of_bytes(cls, content: bytes | memoryview, path: str, remedy: str) -> TextShard:
        """The text shard whose file has the bytes `content`; `path` is what messages call it."""
        shard = cls.__new__(cls)
        shard._open(content, path, remedy)
        return shard

    def _open(self, content: bytes | memoryview, path: str, remedy: str) -> None:
        self.path, self._remedy = path, remedy
        with translated(path, damage(path, remedy)):
            batch = read_single_batch(pa.py_buffer(content), PASSAGE_SCHEMA, most_rows=SHARD_ROWS)
        self.rows: int = batch.num_rows
        if not 1 <= self.rows <= SHARD_ROWS:
            raise DamageError(f"holds {self.rows} rows, expected 1 to {SHARD_ROWS}", where=path, remedy=remedy)
        # Keep numpy views alone: they hold the mapping, and slicing them cannot leave a buffer.
        self._offsets: dict[str, npt.NDArray[np.int32]] = {}
        self._data: dict[str, npt.NDArray[Any]] = {}
        with translated(path, damage(path, remedy)):
            for name in _TEXT_COLUMNS:
                self._offsets[name] = self._view(batch, name, 1, np.int32, self.rows + 1)
                self._data[name] = self._view(batch, name, 2, np.uint8)
            self._offsets["tokens"] = self._view(batch, "tokens", 1, np.int32, self.rows + 1)
            self._data["tokens"] = self._view(batch, "tokens", 3, np.uint32)
            for name in _INTEGER_COLUMNS:
                self._data[name] = self._view(batch, name, 1, np.int32, self.rows)
            self._data["checksum"] = self._view(batch, "checksum", 1, np.uint32, self.rows)

    def _view(
        self, batch: pa.RecordBatch, column: str, buffer: int, dtype: Any, count: int | None = None
    ) -> npt.NDArray[Any]:
        array = batch.column(batch.schema.get_field_index(column))
        buffers = array.buffers()
        if any(validity is not None for validity in buffers[:1] + (buffers[2:3] if column == "tokens" else [])):
            raise DamageError(f"column {column} holds nulls", where=self.path, remedy=self._remedy)
        data = buffers[buffer]
        if data is None:
            return np.zeros(0, dtype)
        items = np.frombuffer(data, np.uint8)
        items = items[: len(items) - len(items) % np.dtype(dtype).itemsize].view(dtype)
        if count is None:
            return items
        if len(items) < count:
            raise DamageError(f"column {column} is cut short", where=self.path, remedy=self._remedy)
        return items[:count]

    def lengths(self) -> npt.NDArray[np.int32]:
        """int32 [rows]: tokens of each passage, as the offsets say (a row's checksum is not read for this)."""
        return np.diff(self._offsets["tokens"]).astype(np.int32)

    def passage(self, row: int) -> Passage:
        """The passage in `row` of this shard; raises DamageError naming row and file if it is not what was written."""
        if not 0 <= row < self.rows:
            raise DamageError(f"has {self.rows} rows, row {row} was asked for", where=self.path, remedy=self._remedy)
        try:
            values: dict[str, Any] = {name: self._slice(name, row).tobytes().decode() for name in _TEXT_COLUMNS}
            tokens = self._slice("tokens", row)
        except (ValueError, UnicodeDecodeError):
            raise self._damaged(row) from None
        values |= {name: int(self._data[name][row]) for name in _INTEGER_COLUMNS}
        passage = Passage(**values, tokens=tokens.astype(np.int32))
        if passage.checksum() != int(self._data["checksum"][row]):
            raise self._damaged(row)
        return passage

    def _slice(self, column: str, row: int) -> npt.NDArray[Any]:
        start, stop = (int(edge) for edge in self._offsets[column][row : row + 2])
        if not 0 <= start <= stop <= len(self._data[column]):
            raise ValueError(column)
        return self._data[column][start:stop]

    def _damaged(self, row: int) -> DamageError:
        return DamageError(f"row {row} fails its checksum", where=self.path, remedy=self._remedy)

    def columns(self, names: Sequence[str]) -> dict[str, pa.Array]:
        """Columns of the shard, copied, after every row of it has been checked; raises as `passage` does.

        `names` are of strings and integers of PASSAGE_SCHEMA. Several times faster than `passages`.
        """
        self._check_sound()
        found = {name: self._strings(name) if name in _TEXT_COLUMNS else pa.array(self._data[name]) for name in names}
        with translated(self.path, damage(self.path, self._remedy)):
            for column in found.values():
                column.validate(full=True)
        return found

    def tokens(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint32]]:
        """All passages' tokens, uint32 [t], and where each passage's begin and the last one's end, int32 [rows + 1].

        Every row is checked first; raises as `passage` does.
        """
        self._check_sound()
        edges, values = self._offsets["tokens"], self._data["tokens"]
        return edges - edges[0], values[edges[0] : edges[-1]]

    def _check_sound(self) -> None:
        if not self._is_sound():
            self.passages()  # finds the row
            raise DamageError("it is not what was written", where=self.path, remedy=self._remedy)

    def _strings(self, name: str) -> pa.Array:
        offsets, data = self._offsets[name], self._data[name]
        start, stop = int(offsets[0]), int(offsets[-1])
        return pa.StringArray.from_buffers(
            self.rows, pa.py_buffer(offsets - start), pa.py_buffer(data[start:stop].tobytes())
        )

    def _is_sound(self) -> bool:
        """Whether all offsets lie within their buffers and all checksums agree."""
        for name, edges in self._offsets.items():
            if edges[0] < 0 or edges[-1] > len(self._data[name]) or np.any(edges[1:] < edges[:-1]):
                return False
        head = [self._data[name] for name in _INTEGER_COLUMNS]
        head += [np.diff(self._offsets[name]) for name in ("article_id", "title", "text", "tokens")]
        sums = map(zlib.crc32, _pieces(np.stack(head, axis=1).astype("<i4"), np.arange(self.rows + 1) * 32))
        for name in ("passage_id", "content_hash", "article_id", "title", "text"):
            sums = map(zlib.crc32, _pieces(self._data[name], self._offsets[name]), sums)
        tokens = self._data["tokens"].astype("<u4", copy=False)
        sums = map(zlib.crc32, _pieces(tokens, 4 * self._offsets["tokens"].astype(np.int64)), sums)
        return np.array_equal(np.fromiter(sums, np.uint32, self.rows), self._data["checksum"])

    def passages(self) -> list[Passage]:
        """All passages of the shard, in row order, each checked."""
        return [self.passage(row) for row in range(self.rows)]


def _pieces(data: npt.NDArray[Any], edges: npt.NDArray[np.integer[Any]]) -> Iterator[bytes]:
    """The bytes of `data` between each edge, in bytes, and the next."""
    content, at = data.tobytes(), edges.tolist()
    return (content[start:stop] for start, stop in itertools.pairwise(at))
