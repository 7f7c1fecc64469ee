"""The id map: position, segment and row of each passage of one version. Derived, memory-mapped, checked when read.

Positions number the live passages in the order of their ids, so they are equal for equal content, however it was built.
One file holds the columns one after another, sorted by id:

    prefix      uint64   first 64 bits of the id          12 bytes a passage are all that a lookup and a fetch touch,
    location    uint32   segment's first location + row   besides
    tokens      uint16   tokens of the passage
    suffix      uint64   last 64 bits of the id           read where a prefix matches
    provenance  int32×4  where the passage begins, ends   read with its text

Columns are cut into blocks of 256 entries, each with a 64-bit checksum that is compared when a block is first touched.
So opening 22 M passages maps a file and reads a page of it, and yet no flipped bit becomes a wrong row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .. import DamageError, UsageError
from .files import damage, sha256_bytes, translated
from .passage import is_passage_id
from .stores import Store

SCAN_COLUMNS = (
    "passage_id",
    "segment",
    "row",
    "n_tokens",
    "article_id",
    "start_paragraph_id",
    "start_character",
    "end_paragraph_id",
    "end_character",
)
"""Catalog columns that `build_id_map` needs."""

BLOCK: Final = 256
_MAGIC = b"glimmer-idmap-1\n"
_HEADER_BYTES = 4096
_SUMMED: Final = 64  # blocks whose widened entries stay in the processor's cache
_WRITTEN: Final = 256 * BLOCK  # entries of a column that are put in order and written at once
_MAX_ROWS = 1 << 32  # a location has 32 bits
_COLUMNS: dict[str, tuple[np.dtype[Any], int]] = {
    "prefix": (np.dtype("<u8"), 1),
    "location": (np.dtype("<u4"), 1),
    "tokens": (np.dtype("<u2"), 1),
    "suffix": (np.dtype("<u8"), 1),
    "provenance": (np.dtype("<i4"), 4),
}
# Odd multipliers: one flipped bit changes one factor by a power of two, so the sum modulo 2^64 always changes.
_MULTIPLIERS = np.frombuffer(hashlib.shake_256(b"glimmer id map").digest(8 * BLOCK * 4), "<u8") | np.uint64(1)

Columns = dict[str, npt.NDArray[Any]]


class IdMapDamageError(DamageError):
    """The id map is not what was built; whoever holds the catalog builds it again."""


def parse_ids(ids: Sequence[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """(prefix, suffix) uint64 [n] of passage ids; raises UsageError naming one that is malformed."""
    for name in ids:
        if not isinstance(name, str) or not is_passage_id(name):
            raise UsageError(f"{name!r} is not a passage id (32 lower-case hex digits)")
    words = np.frombuffer(bytes.fromhex("".join(ids)), ">u8").reshape(-1, 2)
    return words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)


def _parse_column(column: pa.Array) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """As `parse_ids`, for an Arrow string array, without a Python object per row."""
    if not len(column):
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    _, offsets, data = column.buffers()
    edges = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    if np.any(np.diff(edges) != 32):
        raise ValueError("a passage id does not have 32 digits")
    text = data[int(edges[0]) : int(edges[-1])].to_pybytes()
    # bytes.fromhex also takes capitals and blanks; an id has one spelling.
    words = np.frombuffer(bytes.fromhex(text.decode("ascii")), np.uint8)
    if words.size * 2 != len(text) or words.tobytes().hex().encode() != text:
        raise ValueError("a passage id is not lower-case hex")
    pairs = words.view(">u8").reshape(-1, 2)
    return pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)


def build_id_map(
    store: Store,
    key: str,
    batches: Iterable[pa.RecordBatch],
    *,
    rows: int,
    bases: Mapping[str, tuple[int, int]],
    content_sha256: str,
) -> None:
    """Builds the id map of one version at `key`, whole or not at all. Memory: about 60 bytes a passage.

    Args:
        store, key: file to write.
        batches: the live rows, with the columns SCAN_COLUMNS, in any order.
        rows: how many there are.
        bases: segment id -> (first location, rows) as `segment_bases` gives them.
        content_sha256: the manifest's, to recognise the version again.

    Raises DamageError when an id occurs twice, a row lies outside its segment, or the number of rows is another one.
    """
    path = store.name(key)
    columns: Columns = {
        name: np.zeros((rows, width) if width > 1 else rows, dtype) for name, (dtype, width) in _COLUMNS.items()
    }
    articles = _ArticleCount()
    done = 0
    for batch in batches:
        if done + batch.num_rows > rows:
            raise DamageError(f"the catalog holds more than the {rows} rows its manifest counts", where=path)
        try:
            _fill(columns, slice(done, done + batch.num_rows), batch, bases)
        except ValueError as error:
            raise DamageError(f"the catalog cannot be indexed: {error}", where=path) from error
        articles.add(batch.column("article_id"))
        done += batch.num_rows
    if done != rows:
        raise DamageError(f"the catalog holds {done} rows, its manifest counts {rows}", where=path)
    order = _order(columns)
    header = {"rows": rows, "articles": articles.count(), "content_sha256": content_sha256}
    store.put(key, lambda file: _write(file, columns, order, header))


def _fill(columns: Columns, where: slice, batch: pa.RecordBatch, bases: Mapping[str, tuple[int, int]]) -> None:
    columns["prefix"][where], columns["suffix"][where] = _parse_column(batch.column("passage_id"))
    row = batch.column("row").to_numpy().astype(np.int64)
    segment = batch.column("segment").dictionary_encode()
    names = segment.dictionary.to_pylist()
    unknown = [name for name in names if name not in bases]
    if unknown:
        raise ValueError(f"segment {unknown[0]!r} is not in the manifest")
    index = segment.indices.to_numpy()
    first = np.array([bases[name][0] for name in names], np.int64)
    count = np.array([bases[name][1] for name in names], np.int64)
    if len(row) and (np.any(row < 0) or np.any(row >= count[index])):
        raise ValueError("a row lies outside its segment")
    columns["location"][where] = (first[index] + row) if len(row) else row
    tokens = batch.column("n_tokens").to_numpy()
    if len(tokens) and (tokens.min() < 1 or tokens.max() > np.iinfo(np.uint16).max):
        raise ValueError("a passage's n_tokens is not between 1 and 65,535")
    columns["tokens"][where] = tokens
    for number, name in enumerate(SCAN_COLUMNS[-4:]):
        columns["provenance"][where, number] = batch.column(name).to_numpy()


def _order(columns: Columns) -> npt.NDArray[np.int64]:
    """Indices that sort by (prefix, suffix); raises DamageError for an id that occurs twice or a row used twice."""
    prefix, suffix = columns["prefix"], columns["suffix"]
    order = np.argsort(prefix)  # equal ones in any order: they are sorted below
    ordered = prefix[order]
    equal = np.flatnonzero(ordered[1:] == ordered[:-1])
    # Runs of equal prefixes are rare and short: sort each by suffix.
    for run in np.split(equal, np.flatnonzero(np.diff(equal) > 1) + 1) if len(equal) else ():
        span = slice(int(run[0]), int(run[-1]) + 2)
        inner = np.argsort(suffix[order[span]], kind="stable")
        order[span] = order[span][inner]
        words = suffix[order[span]]
        twice = np.flatnonzero(words[1:] == words[:-1])
        if len(twice):
            name = f"{int(ordered[span][0]):016x}{int(words[twice[0]]):016x}"
            raise DamageError(f"the catalog lists passage {name} more than once")
    locations = np.sort(columns["location"])
    if len(locations) and np.any(locations[1:] == locations[:-1]):
        raise DamageError("the catalog points to one row of a segment for two passages")
    return order


def _write(file: BinaryIO, columns: Columns, order: npt.NDArray[np.int64], header: dict[str, Any]) -> None:
    file.write(b"\0" * _HEADER_BYTES)
    sums = []
    for name, (dtype, width) in _COLUMNS.items():
        source = columns[name]
        total = []
        for start in range(0, len(order), _WRITTEN):
            chunk = source[order[start : start + _WRITTEN]].astype(dtype)
            padding = -len(chunk) % BLOCK
            chunk = np.concatenate([chunk, np.zeros((padding, *chunk.shape[1:]), dtype)])
            total.append(_checksums(chunk.reshape(-1, BLOCK * width)))
            file.write(chunk.tobytes())
        sums.append(np.concatenate(total) if total else np.zeros(0, np.uint64))
    stacked = np.stack(sums).astype("<u8").tobytes()
    file.write(stacked)
    text = json.dumps({**header, "sums_sha256": sha256_bytes(stacked)}, sort_keys=True).encode()
    file.seek(0)
    file.write(_MAGIC + sha256_bytes(text).encode() + b"\n" + text + b"\n")


def _checksums(blocks: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """uint64 [k] of k blocks; guaranteed to change with any single bit, and with others but for one in 2^64 or so."""
    sums = np.empty(len(blocks), np.uint64)
    for start in range(0, len(blocks), _SUMMED):
        words = blocks[start : start + _SUMMED]
        words = (
            words.astype(np.int64).view(np.uint64) if words.dtype.kind == "i" else words.astype(np.uint64, copy=False)
        )
        np.einsum("ij,j->i", words, _MULTIPLIERS[: words.shape[1]], out=sums[start : start + _SUMMED])
    return sums


class _ArticleCount:
    """Counts distinct article ids in about 8 bytes each, by their 64-bit hashes."""

    def __init__(self) -> None:
        self._hashes: list[npt.NDArray[np.uint64]] = []

    def add(self, column: pa.Array) -> None:
        digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in column.unique().to_pylist()]
        self._hashes.append(np.frombuffer(b"".join(digests), np.uint64))

    def count(self) -> int:
        return len(np.unique(np.concatenate(self._hashes))) if self._hashes else 0


def segment_bases(rows: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """segment id -> (first location, rows), segments in the order of their ids; `rows` gives the rows of each.

    Raises UsageError when locations would not fit 32 bits.
    """
    bases, first = {}, 0
    for name in sorted(rows):
        bases[name] = (first, rows[name])
        first += rows[name]
    if first > np.iinfo(np.uint32).max:
        raise UsageError(f"segments hold {first} rows, more than 2^32; run `glimmer compact`")
    return bases


class IdMap:
    """An open id map. Everything it returns has passed its block's checksum; IdMapDamageError is raised otherwise."""

    def __init__(self, store: Store, key: str, *, content_sha256: str) -> None:
        """Maps the file at `key`; FileNotFoundError if absent, IdMapDamageError if damaged or of other content."""
        self.path = path = store.name(key)
        content = store.buffer(key)
        with translated(path, lambda text: IdMapDamageError(text, where=path)):
            mapping = np.frombuffer(content, np.uint8)
            header = self._parse(mapping[:_HEADER_BYTES].tobytes())
            if header["content_sha256"] != content_sha256:
                raise IdMapDamageError("it belongs to another version", where=path)
            self.rows: int = header["rows"]
            self.articles: int = header["articles"]
            if not all(type(count) is int and 0 <= count <= _MAX_ROWS for count in (self.rows, self.articles)):
                raise IdMapDamageError("its header counts what cannot be", where=path)
            blocks = -(-self.rows // BLOCK)
            widths = {name: dtype.itemsize * width for name, (dtype, width) in _COLUMNS.items()}
            expected = _HEADER_BYTES + blocks * (BLOCK * sum(widths.values()) + 8 * len(_COLUMNS))
            if len(mapping) != expected:
                raise IdMapDamageError(f"has {len(mapping)} bytes, expected {expected}", where=path)
            self._columns: Columns = {}
            offset = _HEADER_BYTES
            for name, (dtype, width) in _COLUMNS.items():
                end = offset + blocks * BLOCK * widths[name]
                part = mapping[offset:end].view(dtype)
                self._columns[name] = part.reshape(-1, width) if width > 1 else part
                offset = end
            stored = mapping[offset:]
            if sha256_bytes(stored.tobytes()) != header["sums_sha256"]:
                raise IdMapDamageError("its checksums are damaged", where=path)
            sums = stored.view("<u8").reshape(len(_COLUMNS), blocks)
        self._sums = dict(zip(_COLUMNS, sums, strict=True))
        self._checked = {name: np.zeros(blocks, bool) for name in _COLUMNS}

    @staticmethod
    def _parse(head: bytes) -> dict[str, Any]:
        lines = head[len(_MAGIC) :].split(b"\n", 2)
        if not head.startswith(_MAGIC) or len(lines) != 3 or sha256_bytes(lines[1]).encode() != lines[0]:
            raise ValueError("its header is damaged")
        header: dict[str, Any] = json.loads(lines[1])
        return header

    def _read(self, name: str, positions: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        blocks = np.unique(positions // BLOCK)
        self._check(name, blocks[~self._checked[name][blocks]])
        result: npt.NDArray[Any] = self._columns[name][positions]
        return result

    def _check(self, name: str, blocks: npt.NDArray[np.int64]) -> None:
        width = _COLUMNS[name][1]
        column = self._columns[name].reshape(-1, BLOCK * width)
        for start in range(0, len(blocks), 4096):
            some = blocks[start : start + 4096]
            if not np.array_equal(_checksums(column[some]), self._sums[name][some]):
                raise IdMapDamageError(f"column {name} fails its checksum", where=self.path)
            self._checked[name][some] = True

    def check_all(self, progress: Callable[[], None] | None = None) -> None:
        """Compares every block of every column; raises IdMapDamageError."""
        for name, checked in self._checked.items():
            self._check(name, np.flatnonzero(~checked))
            if progress is not None:
                progress()

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """int64 [n] positions of passage ids; -1 for one that this version does not have."""
        return self.find_words(*parse_ids(ids))

    def find_words(self, prefix: npt.NDArray[np.uint64], suffix: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """As `find`, for the two 64-bit halves of the ids, uint64 [n] each."""
        keys = self._columns["prefix"][: self.rows]
        # Sorted look-ups walk the mapped file forwards.
        order = np.argsort(prefix, kind="stable")
        position = np.empty(len(prefix), np.int64)
        position[order] = np.searchsorted(keys, prefix[order], side="left")
        found = np.full(len(prefix), -1, np.int64)
        open_ = np.flatnonzero(position < self.rows)
        while len(open_):
            at = position[open_]
            same = self._read("prefix", at) == prefix[open_]
            open_, at = open_[same], at[same]
            match = self._read("suffix", at) == suffix[open_]
            found[open_[match]] = at[match]
            open_ = open_[~match]
            position[open_] += 1
            open_ = open_[position[open_] < self.rows]
        if np.any(found < 0):
            # A damaged key may have led the search astray: "not here" is only said by a map that is whole.
            self._check("prefix", np.flatnonzero(~self._checked["prefix"]))
        return found

    def words(self, positions: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """The two 64-bit halves of the passage ids at `positions`, uint64 [n] each."""
        return self._read("prefix", positions), self._read("suffix", positions)

    def ids(self, positions: npt.NDArray[np.int64]) -> list[str]:
        """Passage ids at `positions`."""
        words = np.stack(self.words(positions), axis=1)
        text = words.astype(">u8").tobytes().hex()
        return [text[start : start + 32] for start in range(0, len(text), 32)]

    def locations(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64 [n]: location of each position; see `segment_bases`."""
        return self._read("location", positions).astype(np.int64)

    def tokens(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens of each passage, as the catalog has them."""
        return self._read("tokens", positions).astype(np.int32)

    def provenance(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """int32 [n, 4]: start paragraph, start character, end paragraph, end character, as the catalog has them."""
        return self._read("provenance", positions).astype(np.int32)


def open_id_map(store: Store, key: str, *, content_sha256: str) -> IdMap | None:
    """The id map at `key`, or None if there is none or it is not the one of `content_sha256`, whole."""
    try:
        with translated(store.name(key), damage(store.name(key), "delete it; it is built again")):
            return IdMap(store, key, content_sha256=content_sha256)
    except DamageError:
        return None
