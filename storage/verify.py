"""`glimmer verify`: reads everything one version of a memory consists of and lists every damaged thing.

Every file is compared with its recorded SHA-256, and beyond that every live passage is read as a reader would read it:
its chunk decoded, its length and text compared with the catalog, codes beyond its length zero. A file whose digest
agrees yet whose content does not would be our own mistake, and is found all the same. Shards are checked a few at a
time: hashing and decoding leave Python alone.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from .. import DamageError, GlimmerError
from . import version_indexes as index
from .catalog import Catalog
from .catalog_files import read_catalog_file
from .catalog_log import LOG
from .identity import IDENTITY, read_identity
from .idmap import IdMap
from .manifest import Manifest
from .memory import TABLES, Memory, read_tables
from .passage import SHARD_ROWS, content_hash
from .segment_layout import DIGESTS, ShardRecord, codes_name, lengths_name, metadata_files, text_name
from .segment_reader import RowDamageError, SegmentReader
from .stores import Place, Store, open_store
from .vacuumed import PASSAGES

_SAMPLE = 5
_AT_ONCE = min(4, os.cpu_count() or 1)
_READ_ROWS = 64

IDENTITY_KIND, TABLES_KIND, LOG_KIND, CATALOG_KIND = "identity", "codec", "catalog-log", "catalog"
DIGESTS_KIND, METADATA_KIND, INDEX_KIND = "digests", "metadata", "index"
CODES_KIND, LENGTHS_KIND, TEXT_KIND = "codes", "lengths", "text"


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One damaged thing.

    Attributes:
        kind: "identity", "codec", "catalog-log", "catalog", "digests", "metadata", "index", "codes", "lengths", "text".
        path: the damaged file, relative to the memory.
        segment, shard: where, for damage in a segment.
        passages: ids of live passages that cannot be trusted, at most five of them.
        count: how many live passages cannot be trusted.
        detail: what is wrong.
        remedy: the command or act that repairs it.
    """

    kind: str
    path: str
    detail: str
    remedy: str
    segment: str | None = None
    shard: int | None = None
    passages: tuple[str, ...] = ()
    count: int = 0

    def __str__(self) -> str:
        place = f" (segment {self.segment}, shard {self.shard})" if self.shard is not None else ""
        named = ""
        if self.count:
            more = f" and {self.count - len(self.passages)} more" if self.count > len(self.passages) else ""
            named = f"; passages {', '.join(self.passages)}{more}"
        return f"{self.kind}: {self.path}{place}: {self.detail}{named}; {self.remedy}"


@dataclass(kw_only=True)
class VerifyReport:
    """What `verify` found: `damages` is empty exactly when all is well. Counts are of what was read."""

    version: int | None = None
    passages: int = 0
    tokens: int = 0
    shards: int = 0
    bytes: int = 0
    damages: list[Damage] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.damages


def verify(
    memory: Place, *, version: int | None = None, progress: Callable[[int, int], None] | None = None
) -> VerifyReport:
    """Reads and checks all of `version` (default: the newest) of the memory at `memory`, and the log up to the newest.

    Args:
        progress: called with (shards done, shards in all) after each shard.

    Raises UsageError if there is no memory or no such version, or it was vacuumed, StorageError if the file system
    refuses. Damage never raises; it is in the report. Takes about 85 bytes of memory a passage, and the codes of a few
    hundred passages.
    """
    store, report = open_store(memory), VerifyReport()
    catalog = Catalog(store)
    _check_identity(store, report)
    for entry, detail in catalog.check_log(catalog.latest_version()):
        _add(report, LOG_KIND, store, entry, detail)
    try:
        manifest = catalog.manifest(version)
    except DamageError as error:
        if not any(damage.kind == LOG_KIND for damage in report.damages):
            _add(report, LOG_KIND, store, f"{PASSAGES}/{LOG}", error.problem)
        return report
    report.version = manifest.version
    catalog.check_present(manifest)
    try:
        opened = Memory.open(store, manifest.version, check=False)
    except DamageError as error:
        if not report.damages:
            _add(report, IDENTITY_KIND, store, IDENTITY, error.problem)
        return report
    live = _live_rows(catalog, manifest, report)
    _check_index(opened, report)
    total, done = sum(reader.shape.shards for reader in opened.readers), 0
    for reader in opened.readers:
        for check in _check_segment(reader, live.get(reader.segment), report):
            report.shards += 1
            report.bytes += check.bytes
            report.damages += check.damages
            done += 1
            if progress is not None:
                progress(done, total)
    return report


def _add(report: VerifyReport, kind: str, store: Store, key: str, detail: str, **place: Any) -> None:
    """Adds a damage; `detail` says what is wrong, without the place and the remedy, which the Damage has."""
    remedy = f"run `glimmer repair {store.location}`"
    if kind in (IDENTITY_KIND, TABLES_KIND, LOG_KIND):
        remedy += ", which mends a single flipped bit, or restore it from a copy of the memory"
    report.damages.append(Damage(kind=kind, path=key, detail=detail, remedy=remedy, **place))


def _check_identity(store: Store, report: VerifyReport) -> None:
    try:
        identity = read_identity(store)
    except DamageError as error:
        _add(report, IDENTITY_KIND, store, IDENTITY, error.what)
        return
    try:
        read_tables(store, identity)
    except DamageError as error:
        _add(report, TABLES_KIND, store, TABLES, error.what)


class _LiveRows:
    """The live rows of one segment as the catalog has them, sorted by row; 32 bytes a row, and as many to sort them."""

    DTYPE = np.dtype([("row", "<i4"), ("tokens", "<i4"), ("id", "V16"), ("hash", "V8")])

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[Any]] = []
        self._rows = np.zeros(0, self.DTYPE)

    def add(self, part: npt.NDArray[Any]) -> None:
        self._parts.append(part)

    def finish(self) -> None:
        self._rows = np.concatenate(self._parts)
        self._parts = []
        rows = np.ascontiguousarray(self._rows["row"])
        if np.any(rows[1:] < rows[:-1]):  # files do not follow one another once a refresh has replaced some
            self._rows = self._rows[np.argsort(rows)]

    def shard(self, shard: int) -> npt.NDArray[Any]:
        """The live rows of one shard."""
        first, last = np.searchsorted(self._rows["row"], [shard * SHARD_ROWS, (shard + 1) * SHARD_ROWS])
        return self._rows[first:last]


def _live_rows(catalog: Catalog, manifest: Manifest, report: VerifyReport) -> dict[str, _LiveRows]:
    live: dict[str, _LiveRows] = {}
    columns = ["passage_id", "segment", "row", "n_tokens", "content_hash"]
    for file in manifest.files:
        try:
            for batch in read_catalog_file(catalog.store, file, columns):
                segments = batch.column("segment").dictionary_encode()
                part = np.empty(batch.num_rows, _LiveRows.DTYPE)
                for field_, column in (("row", "row"), ("tokens", "n_tokens")):
                    part[field_] = batch.column(column).to_numpy()
                for field_, column in (("id", "passage_id"), ("hash", "content_hash")):
                    part[field_] = _binary(batch.column(column), _LiveRows.DTYPE[field_])
                number = segments.indices.to_numpy()
                for at, name in enumerate(segments.dictionary.to_pylist()):
                    live.setdefault(name, _LiveRows()).add(part[number == at])
                report.passages += batch.num_rows
                report.tokens += int(part["tokens"].sum(dtype=np.int64))
            report.bytes += file.bytes
        except DamageError as error:
            _add(report, CATALOG_KIND, catalog.store, f"{PASSAGES}/{file.name}", error.what, count=file.rows)
    for rows in live.values():
        rows.finish()
    return live


def _binary(column: pa.Array, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The bytes, of `dtype`, that strings of lower-case hex digits spell; raises DamageError where one is none."""
    text = "".join(column.to_pylist())
    try:
        content = bytes.fromhex(text)
    except ValueError:
        content = b""
    if content.hex() != text or np.any(pc.binary_length(column).to_numpy() != 2 * dtype.itemsize):
        raise DamageError("a passage id or a hash in it is malformed")
    return np.frombuffer(content, dtype)


def _check_index(memory: Memory, report: VerifyReport) -> None:
    store, key = memory.store, f"{memory.index_key}/{index.ID_MAP}"
    if store.exists(key):
        try:
            ids = IdMap(store, key, content_sha256=memory.manifest.content_sha256)
            if ids.rows != memory.passages:
                raise DamageError(f"has {ids.rows} passages, expected {memory.passages}", where=store.name(key))
            ids.check_all()
        except DamageError as error:
            _add(report, INDEX_KIND, store, key, error.what)
    for file, detail in index.first_stage_damage(store, memory.version):
        _add(report, INDEX_KIND, store, file, detail)


def _check_segment(reader: SegmentReader, live: _LiveRows | None, report: VerifyReport) -> Iterator[VerifyReport]:
    store = reader.store
    for name, content in metadata_files(reader.shape).items():
        key = f"{reader.key}/{name}"
        entry = store.stat(key)
        if entry is None or entry.kind != "file" or entry.size != len(content) or store.read(key) != content:
            detail = "is not what was written" if entry is not None and entry.kind == "file" else "is missing"
            _add(report, METADATA_KIND, store, key, detail, segment=reader.segment)
    records: Sequence[ShardRecord | None]
    try:
        records = reader.records
    except DamageError as error:
        _add(report, DIGESTS_KIND, store, f"{reader.key}/{DIGESTS}", error.what, segment=reader.segment)
        records = [None] * reader.shape.shards

    def check(shard: int) -> VerifyReport:
        rows = live.shard(shard) if live is not None else np.zeros(0, _LiveRows.DTYPE)
        found = VerifyReport()
        _ShardCheck(reader, shard, records[shard], rows, found).run()
        return found

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="verify") as pool:
        waiting: deque[Future[VerifyReport]] = deque()
        try:
            for shard in range(len(records)):
                if len(waiting) == 2 * _AT_ONCE:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(check, shard))
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


class _ShardCheck:
    """The check of one shard: its three files as bytes, then its live rows as a reader sees them."""

    def __init__(
        self,
        reader: SegmentReader,
        shard: int,
        record: ShardRecord | None,
        live: npt.NDArray[Any],
        report: VerifyReport,
    ) -> None:
        self._reader, self._shard = reader, shard
        self._record, self._live, self._report = record, live, report
        self._names = {
            CODES_KIND: codes_name(shard),
            LENGTHS_KIND: lengths_name(shard),
            TEXT_KIND: text_name(shard),
        }

    def run(self) -> None:
        checks = ((CODES_KIND, self._codes), (LENGTHS_KIND, self._lengths), (TEXT_KIND, self._text))
        for kind, check in checks:
            bytes_wrong = self._bytes(kind)
            if bytes_wrong and not self._readable(kind):
                self._damage(kind, bytes_wrong, self._live)
                continue
            bad = check()
            if bad:
                rows = np.isin(self._live["row"], list(bad))
                self._damage(kind, bytes_wrong or next(iter(bad.values())), self._live[rows])
            elif bytes_wrong:
                self._damage(kind, bytes_wrong, self._live[:0])

    def _readable(self, kind: str) -> bool:
        """Whether a damaged file may be read all the same, to see which rows are sound.

        A FIFO would wait for ever, and TensorStore allots whatever size a file has: the process ends when it cannot.
        """
        entry, shape = self._reader.store.stat(self._key(kind)), self._reader.shape
        row = shape.window * shape.code_bytes
        most = {CODES_KIND: SHARD_ROWS * (row + row // 64 + 128) + 4096, LENGTHS_KIND: 8 * SHARD_ROWS}
        return entry is None or (entry.kind == "file" and entry.size <= most.get(kind, entry.size))

    def _key(self, kind: str) -> str:
        return f"{self._reader.key}/{self._names[kind]}"

    def _bytes(self, kind: str) -> str | None:
        """What is wrong with a file's bytes, if anything."""
        store, key = self._reader.store, self._key(kind)
        expected_size = None if self._record is None else getattr(self._record, f"{kind}_bytes")
        try:
            entry = store.stat(key)
            if expected_size is not None and entry is not None and entry.kind == "file" and entry.size != expected_size:
                self._report.bytes += entry.size
                return f"has {entry.size} bytes, expected {expected_size}"
            sha256, size = store.sha256(key)
        except FileNotFoundError:
            return "is missing"
        except DamageError:
            return "is not a plain file"
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        self._report.bytes += size
        if self._record is None:
            return None
        return None if sha256 == getattr(self._record, f"{kind}_sha256") else "its SHA-256 is not the recorded one"

    def _codes(self) -> dict[int, str]:
        """Live row -> what is wrong with its codes."""
        bad: dict[int, str] = {}
        for start in range(0, len(self._live), _READ_ROWS):
            rows = self._live[start : start + _READ_ROWS]
            try:
                codes = self._reader.codes(rows["row"].astype(np.int64))
                for row, length, code in zip(rows["row"].tolist(), rows["tokens"].tolist(), codes, strict=True):
                    if code[length:].any():
                        bad[row] = f"row {row} has codes beyond its {length} tokens"
            except DamageError:
                bad |= self._each(rows["row"])
        return bad

    def _each(self, rows: npt.NDArray[np.int32]) -> dict[int, str]:
        bad: dict[int, str] = {}
        for row in rows.astype(np.int64):
            try:
                self._reader.codes(row[None])
            except RowDamageError as error:
                bad[int(row)] = f"row {row}: {error.why}"
        return bad

    def _lengths(self) -> dict[int, str]:
        rows = self._live["row"].astype(np.int64)
        if not len(rows):
            return {}
        try:
            stored = self._reader.lengths(rows)
        except DamageError as error:
            return {int(row): error.what for row in rows}
        wide = self._live["tokens"] > self._reader.shape.window
        if wide.any():
            return {int(row): f"row {row} has more tokens than the window, by the catalog" for row in rows[wide]}
        wrong = np.flatnonzero(stored != self._live["tokens"])
        return {
            int(rows[at]): f"row {rows[at]} is {stored[at]} long, the catalog says {self._live['tokens'][at]}"
            for at in wrong
        }

    def _text(self) -> dict[int, str]:
        bad: dict[int, str] = {}
        try:
            text = self._reader.open_text(self._shard)
        except GlimmerError as error:
            return {int(row): error.what for row in self._live["row"]}
        for row, tokens, name, hash_ in self._live.tolist():
            try:
                passage = text.passage(row % SHARD_ROWS)
            except DamageError as error:
                bad[row] = error.what
                continue
            if passage.passage_id != name.hex() or len(passage.tokens) != tokens:
                bad[row] = f"row {row} holds passage {passage.passage_id}, the catalog says {name.hex()}"
            elif not passage.content_hash == hash_.hex() == content_hash(passage.title, passage.text):
                bad[row] = f"row {row}: title and text do not have the catalog's content hash"
        return bad

    def _damage(self, kind: str, detail: str, rows: npt.NDArray[Any]) -> None:
        _add(
            self._report,
            kind,
            self._reader.store,
            self._key(kind),
            detail,
            segment=self._reader.segment,
            shard=self._shard,
            passages=tuple(name.hex() for name in rows["id"][:_SAMPLE].tolist()),
            count=len(rows),
        )
