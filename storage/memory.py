"""A memory, as everybody else sees it: create one, open a version of it, find passages, fetch their codes and texts.

`Memory` is a pinned snapshot: it keeps showing the version it was opened at while jobs commit newer ones beside it.
Its passages have positions 0 … n-1, in the order of their ids, so positions are equal for equal content however it
came about. Whatever it returns has passed its checks: checksums of the payload, lengths against the catalog, text
against its row checksum and id.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .. import DamageError, GlimmerError, MismatchError, StorageError, UsageError
from . import version_indexes as index
from .catalog import Catalog
from .codecs import Codec, codec_from_spec, tables_from_bytes, tables_to_bytes
from .files import damage, sha256_bytes, translated
from .identity import Identity, read_identity, write_identity
from .idmap import IdMap, IdMapDamageError, segment_bases
from .manifest import CatalogFile, Manifest, SegmentEntry
from .passage import Passage
from .segment_layout import SegmentShape
from .segment_reader import RowDamageError, SegmentReader
from .segment_writer import SealedSegment
from .stores import Place, Store, open_store

TABLES = "codec/tables.safetensors"
_LARGEST_TABLES = 1 << 30
_SPAN: Final = 1 << 20  # positions looked at together
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Memory:
    """One version of a memory, open for reading. Build it with `Memory.open` or `Memory.create`.

    Safe to use from several threads for reading.
    """

    def __init__(self, store: Store, manifest: Manifest, identity: Identity, codec: Codec) -> None:
        self.store, self.location = store, store.location
        self.manifest = manifest
        self.identity = identity
        self.codec = codec
        self.window = identity.passages.window
        self.catalog = Catalog(store)
        bases = segment_bases({name: entry.rows for name, entry in manifest.segments.items()})
        self._names = list(bases)
        self._firsts = np.array([first for first, _ in bases.values()], np.int64)
        self._readers = [self._reader(name) for name in self._names]

    # Opening and creating.

    @classmethod
    def create(cls, path: Place, identity: Identity, tables: Mapping[str, npt.NDArray[Any]] | None = None) -> Memory:
        """Creates an empty memory (version 0) at `path`; if an equal one is there already, opens it.

        Args:
            path: a directory, made if absent, or another place that `open_store` knows.
            identity: what the memory is; its `tables_sha256` is filled in here.
            tables: the codec's arrays.

        Raises MismatchError if another memory is there, UsageError for an identity that cannot be, StorageError.
        """
        store, tables = open_store(path), tables or {}
        catalog = Catalog(store)
        content = tables_to_bytes(tables)
        identity = replace(identity, tables_sha256=sha256_bytes(content) if tables else "")
        codec_from_spec(identity.codec, tables)
        digest = write_identity(store, identity)
        if tables and not store.exists(TABLES):
            store.put(TABLES, content)
        catalog.create(identity_sha256=digest)
        return cls.open(store)

    @classmethod
    def open(cls, path: Place, version: int | None = None, *, check: bool = True) -> Memory:
        """Opens `version` (default: the newest) of the memory at `path`.

        With `check`, sizes of all files of all live segments are compared with what was recorded, by one listing a
        directory. Raises UsageError if there is no such memory or version, DamageError if something is not as it was
        committed, MismatchError if a newer Glimmer wrote it. A version that was vacuumed is a UsageError that says so.
        """
        store = open_store(path)
        read_identity(store)  # a sound message first when this is no memory at all
        catalog = Catalog(store)
        manifest = catalog.manifest(version)
        catalog.check_present(manifest)
        identity = read_identity(store, manifest.identity_sha256)
        memory = cls(store, manifest, identity, codec_from_spec(identity.codec, read_tables(store, identity)))
        if check:
            memory._check_sizes()
        return memory

    def _reader(self, name: str) -> SegmentReader:
        entry = self.manifest.segments[name]
        shape = SegmentShape(rows=entry.rows, window=self.window, code_bytes=self.codec.code_bytes)
        return SegmentReader(self.store, name, shape, entry.digests_sha256)

    def _check_sizes(self) -> None:
        for reader in self._readers:
            wrong = reader.wrong_sizes()
            if wrong:
                more = f" and {len(wrong) - 1} more files" if len(wrong) > 1 else ""
                raise DamageError(
                    f"{self.location}: segment {reader.segment}, shard {wrong[0][0]}: {wrong[0][1]}{more}; "
                    f"run `glimmer verify {self.location}`, then `glimmer repair {self.location}`"
                )

    # What is there.

    @property
    def version(self) -> int:
        """The version this snapshot shows."""
        return self.manifest.version

    @property
    def passages(self) -> int:
        """Number of live passages."""
        return self.manifest.passages

    @property
    def tokens(self) -> int:
        """Number of tokens of the live passages."""
        return self.manifest.tokens

    @property
    def articles(self) -> int:
        """Number of articles that have a live passage."""
        return self._with_map(lambda ids: ids.articles)

    @property
    def segments(self) -> Mapping[str, SegmentEntry]:
        """Segment id -> entry, for segments that hold live passages."""
        return self.manifest.segments

    @property
    def readers(self) -> Sequence[SegmentReader]:
        """A reader for each segment, in the order of `segments` sorted by id."""
        return self._readers

    @property
    def index_key(self) -> str:
        """`indexes/<version>`, for indexes derived from this version; may not exist, may be read-only."""
        return index.index_key(self.version)

    def history(self) -> list[Manifest]:
        """All versions, newest first."""
        return self.catalog.history()

    def passage_table(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Streams the catalog's live rows (CATALOG_SCHEMA, or only `columns`) in the order of the payload, checked."""
        return self.catalog.scan(self.manifest, columns)

    # Finding.

    @cached_property
    def _id_map(self) -> list[IdMap]:
        return [index.open_or_build(self.catalog, self.manifest)]

    def _with_map(self, use: Callable[[IdMap], _T]) -> _T:
        try:
            return use(self._id_map[0])
        except IdMapDamageError:
            # Derived data: build it again from the catalog, which has its own digests, and go on.
            self._id_map[0] = index.open_or_build(self.catalog, self.manifest, rebuild=True)
            return use(self._id_map[0])

    def locate(self, ids: Sequence[str], *, missing: str = "error") -> npt.NDArray[np.int64]:
        """int64 [n] positions of passage ids, in their order.

        With `missing="skip"` an id that this version does not have gives -1; else it raises MismatchError. A malformed
        id raises UsageError.
        """
        if missing not in ("error", "skip"):
            raise UsageError(f"missing must be 'error' or 'skip', not {missing!r}")
        positions = self._with_map(lambda ids_: ids_.find(ids))
        absent = np.flatnonzero(positions < 0)
        if len(absent) and missing == "error":
            raise MismatchError(
                f"{self.location}: passage {ids[int(absent[0])]} is not in version {self.version}"
                f"{f' (nor are {len(absent) - 1} others)' if len(absent) > 1 else ''}; "
                "use candidates made from this version"
            )
        return positions

    def ids(self, positions: npt.ArrayLike) -> list[str]:
        """Passage ids at `positions`."""
        where = self._positions(positions)
        return self._with_map(lambda ids: ids.ids(where))

    def token_counts(self, positions: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """int32 [n]: tokens of each passage, by the catalog; reads no payload."""
        where = self._positions(positions)
        counts = self._with_map(lambda ids: ids.tokens(where))
        if len(counts) and int(counts.max()) > self.window:
            name = self.ids(where[[int(counts.argmax())]])[0]
            raise DamageError(
                f"{self.location}: passage {name}: by the catalog it has {int(counts.max())} tokens, more than the "
                f"window of {self.window}; run `glimmer verify {self.location}`"
            )
        return counts

    def provenance(self, positions: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """int32 [n, 4]: start paragraph, start character, end paragraph, end character, by the catalog."""
        where = self._positions(positions)
        return self._with_map(lambda ids: ids.provenance(where))

    def positions_in(self, other: Memory, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """int64 [n]: where `other`, any version of any memory, has the passages at `positions`; -1 where it lacks one.

        Fastest for ascending positions, which walk both id maps forwards.
        """
        where = self._positions(positions)
        words = self._with_map(lambda ids: ids.words(where))
        return other._with_map(lambda ids: ids.find_words(*words))

    def rows(self, positions: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(index into `readers` int64 [n], row in that segment int64 [n]) of `positions`."""
        where = self._positions(positions)
        locations = self._with_map(lambda ids: self._inside(ids.locations(where)))
        segment = np.searchsorted(self._firsts, locations, side="right") - 1
        return segment, locations - self._firsts[segment]

    def _inside(self, locations: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        rows = sum(entry.rows for entry in self.manifest.segments.values())
        if len(locations) and int(locations.max()) >= rows:
            raise IdMapDamageError(
                f"{self.store.name(self.index_key)}: the id map points beyond the {rows} rows that there are"
            )
        return locations

    def _positions(self, positions: npt.ArrayLike) -> npt.NDArray[np.int64]:
        where = np.asarray(positions)
        if where.ndim != 1 or (where.size and not np.issubdtype(where.dtype, np.integer)):
            raise UsageError(f"positions must be a vector of integers, not {where.dtype} {where.shape}")
        if where.size and (int(where.min()) < 0 or int(where.max()) >= self.passages):
            raise UsageError(f"version {self.version} has positions 0 to {self.passages - 1} only", where=self.location)
        return where.astype(np.int64, copy=False)

    # Reading.

    def fetch(
        self, positions: npt.ArrayLike, out: npt.NDArray[np.uint8] | None = None
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Codes and lengths of passages, in the order of `positions`, which may repeat.

        Args:
            positions: int [n].
            out: uint8 [n, window, code_bytes], C-contiguous, to read into; a new array if None. Reusing one is faster.

        Returns (codes uint8 [n, window, code_bytes], lengths int32 [n]); codes beyond a length are zero.
        Raises DamageError naming passage, segment and shard if anything is not what was written.
        """
        where = self._positions(positions)
        shape = (len(where), self.window, self.codec.code_bytes)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous or not out.flags.writeable:
            raise UsageError(f"out must be a writable, contiguous uint8 array of shape {shape}")
        segment, row = self.rows(where)
        order = np.lexsort((row, segment))
        edges = np.flatnonzero(np.diff(segment[order])) + 1
        pending = []
        for target in np.split(order, edges) if len(order) else ():
            reader = self._readers[int(segment[target[0]])]
            pending.append((target, reader.start(row[target], out, target)))
        lengths = np.empty(len(where), np.int32)
        failure: Exception | None = None
        for target, reading in pending:
            try:
                lengths[target] = reading.finish()
            except GlimmerError as error:
                failure = failure or error  # wait for the others: they write into `out`
        if failure is not None:
            raise self._named(failure)
        expected = self.token_counts(where)
        wrong = np.flatnonzero(lengths != expected)
        if len(wrong):
            at = int(wrong[0])
            why = f"stored length {lengths[at]} disagrees with the catalog's {expected[at]}"
            raise self._named(RowDamageError(self._names[int(segment[at])], int(row[at]), why))
        return out, lengths

    def texts(self, positions: npt.ArrayLike) -> list[Passage]:
        """The passages at `positions`, in their order, as this version has them; raises DamageError like `fetch`."""
        where = self._positions(positions)
        segment, row = self.rows(where)
        ids, counts = self.ids(where), self.token_counts(where)
        provenance = self._with_map(lambda map_: map_.provenance(where)).tolist()
        found: dict[int, Passage] = {}
        for at in np.lexsort((row, segment)).tolist():
            reader = self._readers[int(segment[at])]
            try:
                passage = reader.passage(int(row[at]))
            except RowDamageError as error:
                raise self._named(error, ids[at]) from error
            if passage.passage_id != ids[at] or len(passage.tokens) != counts[at]:
                why = f"the text there is of passage {passage.passage_id} with {len(passage.tokens)} tokens"
                raise self._named(RowDamageError(reader.segment, int(row[at]), why), ids[at])
            start, first, end, last = provenance[at]
            found[at] = replace(
                passage, start_paragraph_id=start, start_character=first, end_paragraph_id=end, end_character=last
            )
        return [found[at] for at in range(len(where))]

    def scan_texts(self, batch: int = 1024) -> Iterator[tuple[npt.NDArray[np.int64], list[Passage]]]:
        """All passages in the payload's order, the fast one: yields (positions int64 [k], passages), k <= batch."""
        locations = np.empty(self.passages, np.uint32)  # which number rows in the payload's order
        for start in range(0, self.passages, _SPAN):
            span = np.arange(start, min(start + _SPAN, self.passages))
            locations[span] = self._with_map(lambda ids, span=span: self._inside(ids.locations(span)))  # type: ignore[misc]
        order = np.argsort(locations)
        del locations
        for start in range(0, len(order), batch):
            positions = order[start : start + batch]
            yield positions, self.texts(positions)

    def _named(self, error: Exception, passage: str | None = None) -> Exception:
        """A RowDamageError as the user should see it, with the passage's id and the way out; others as they are."""
        if not isinstance(error, RowDamageError):
            return error
        return DamageError(
            f"{self.location}: passage {passage or self._passage_at(error)}: {error}; "
            f"run `glimmer repair {self.location}`"
        )

    def _passage_at(self, error: RowDamageError) -> str:
        location = int(self._firsts[self._names.index(error.segment)]) + error.row
        for start in range(0, self.passages, _SPAN):
            span = np.arange(start, min(start + _SPAN, self.passages))
            hits = span[self._with_map(lambda ids, span=span: ids.locations(span)) == location]  # type: ignore[misc]
            if len(hits):
                return self.ids(hits[:1])[0]
        return "(not live)"


def read_tables(memory: Place, identity: Identity, key: str = TABLES) -> dict[str, npt.NDArray[Any]]:
    """The codec's arrays, whose file `key` must have the SHA-256 in memory.json; raises DamageError."""
    if not identity.tables_sha256:
        return {}
    store = open_store(memory)
    path = store.name(key)
    with translated(path, damage(path, "restore it from a copy of the memory")):
        content = store.read(key, most=_LARGEST_TABLES)
        if sha256_bytes(content) != identity.tables_sha256:
            raise DamageError(
                "not the file that memory.json records", where=path, remedy="restore it from a copy of the memory"
            )
        return tables_from_bytes(content)


def commit(
    memory: Place,
    *,
    base: int,
    job: str,
    operation: str,
    add: Iterable[pa.Table | pa.RecordBatch] = (),
    remove: Sequence[str] = (),
    restore: Sequence[CatalogFile] = (),
    segments: Iterable[SealedSegment] = (),
    rows_added: int | None = None,
    rows_removed: int | None = None,
    details: Mapping[str, Any] | None = None,
) -> Manifest:
    """Commits a job's work as version `base + 1`, with its id map; see `Catalog.commit` for arguments and errors.

    The id map is built first, from the files about to be committed, so a passage listed twice, or two passages in one
    row, stop the commit with a DamageError.
    """
    catalog = Catalog(memory)
    with index.prepared(catalog) as preparation:
        manifest = catalog.commit(
            base=base,
            job=job,
            operation=operation,
            add=add,
            remove=remove,
            restore=restore,
            segments=list(segments),
            rows_added=rows_added,
            rows_removed=rows_removed,
            details=details,
            prepare=preparation.build,
        )
        preparation.install(manifest)
    _log.info("%s: version %d committed by %s", catalog.memory, manifest.version, job)
    return manifest


def rollback(memory: Place, *, to: int, base: int, job: str) -> Manifest:
    """Makes version `base + 1` show what version `to` showed; see `Catalog.rollback`.

    Passages that come and go are counted one by one, unless one of the two versions cannot be read.
    """
    catalog = Catalog(memory)
    with index.prepared(catalog) as preparation:
        rows = None
        with contextlib.suppress(DamageError, StorageError):  # away from a damaged version is where one wants to go
            before, after = (Memory.open(memory, version, check=False) for version in (base, to))
            rows = _lacking(after, before), _lacking(before, after)
        manifest = catalog.rollback(to=to, base=base, job=job, rows=rows, prepare=preparation.build)
        preparation.install(manifest)
    _log.info("%s: version %d committed, which shows version %d", catalog.memory, manifest.version, to)
    return manifest


def _lacking(one: Memory, other: Memory, span: int = _SPAN) -> int:
    """Number of passages of `one` that `other` lacks."""
    return sum(
        int(np.count_nonzero(one.positions_in(other, np.arange(start, min(start + span, one.passages))) < 0))
        for start in range(0, one.passages, span)
    )
