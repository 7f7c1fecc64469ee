"""Repair: what `verify` finds damaged is put back as it was written, or written anew, or named as lost.

Whatever follows from something whole is made again: Zarr metadata from the shape, indexes from the catalog, a catalog
file from id map and text, codes from the stored tokens. A file is replaced only by bytes with the recorded SHA-256.
Where equal bytes cannot be had (another build of a compressor, say) the segment's live rows go to new ones. What
exists once only, memory.json, the codec's tables and the log, is mended if one flipped bit is all that is wrong, as
is a catalog file that cannot be written again; text is looked for in other versions. Anything else needs a copy of the
memory, or for passages their source: `drop=True` gives them up, so that a refresh adds them again.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ... import ConflictError, DamageError, GlimmerError, StorageError
from ...progress import Progress, Quiet
from ...reader.serving.retrieval_index import index_new_version, rebuilt_index
from ...storage import version_indexes as id_maps
from ...storage.catalog import Catalog
from ...storage.catalog_files import CATALOG_SCHEMA, passage_rows, read_catalog_file, write_catalog_files
from ...storage.files import TEMPORARY_PREFIX, make_directories, write_atomic
from ...storage.healing import heal_digests, heal_file, heal_identity, heal_log
from ...storage.ledger import Ledger
from ...storage.manifest import CatalogFile, Manifest
from ...storage.memory import Memory, commit
from ...storage.passage import SHARD_ROWS, Passage
from ...storage.paths import local_path
from ...storage.removal import refuse_links, remove_tree
from ...storage.segment_layout import metadata_files
from ...storage.segment_writer import SealedSegment, SegmentWriter
from ...storage.verify import (
    CATALOG_KIND,
    CODES_KIND,
    DIGESTS_KIND,
    IDENTITY_KIND,
    INDEX_KIND,
    LENGTHS_KIND,
    LOG_KIND,
    METADATA_KIND,
    TABLES_KIND,
    TEXT_KIND,
    Damage,
    VerifyReport,
    verify,
)
from ..encoding.encoding_job import job_id, segment_id
from .compact import merge
from .restore import OtherVersions, Reencoder, Restored, ShardRestorer, with_places

_MOST_BYTES = 1 << 30  # of restored codes held in memory; the rest is for the next round
_SHARD_KINDS = (CODES_KIND, LENGTHS_KIND, TEXT_KIND)


@dataclass(kw_only=True)
class RepairResult:
    """What a repair did.

    Attributes:
        memory: which memory.
        version: the version repaired.
        new_version: the version committed because something could not be put back as it was; None if there was none.
        found: how many damaged places were found.
        repaired: path -> how it was repaired.
        recoded: passages encoded again.
        moved: passages whose rows are in a new segment now.
        dropped: ids of passages given up with `drop`.
        lost: ids of passages whose text is lost, and which are still in the memory.
        remaining: what is still damaged, with what can be done about it.
    """

    memory: Path
    version: int | None = None
    new_version: int | None = None
    found: int = 0
    repaired: dict[str, str] = field(default_factory=dict)
    recoded: int = 0
    moved: int = 0
    dropped: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    remaining: list[Damage] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged any more."""
        return not self.remaining

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        return asdict(self) | {"memory": str(self.memory), "sound": self.sound}


def repair(
    *,
    memory: str | Path,
    model: str | None = None,
    version: int | None = None,
    drop: bool = False,
    progress: Progress | None = None,
) -> RepairResult:
    """Verifies a version of a memory and repairs what it can.

    Args:
        memory: the memory's directory.
        model: a model directory or built-in name with the memory's encoder; None takes the one memory.json names. It
            is loaded only if codes have to be made again.
        version: which version; None takes the newest. Of an older one only what can be put back as it was is repaired.
        drop: give up passages whose text is lost, in a new version; `glimmer refresh` then adds them again.
        progress: hears how the job goes.

    Raises UsageError where there is no such memory, version or model, MismatchError for a model with another encoder,
    ConflictError when another job changes the memory meanwhile, StorageError when the file system refuses. Damage that
    stays is in the result, never an error.
    """
    result = RepairResult(memory=local_path(memory))
    progress = progress or Quiet()
    report = _verified(result.memory, version, progress)
    result.version, result.found = report.version, len(report.damages)
    if not report.sound:
        _refuse_read_only(result.memory, report)
        refuse_links(result.memory)
    begun = result.version
    while not all(map(_is_first_stage, report.damages)):  # a catalog file comes before shards can be told to be whole
        before = (len(result.repaired), result.new_version)
        _Repair(result, report, model, drop, progress).run(version)
        if (len(result.repaired), result.new_version) == before:
            break
        report = _verified(result.memory, version, progress)
        result.version = result.version if result.version is not None else report.version
    if result.new_version is not None and begun is not None:
        index_new_version(result.memory, result.new_version, before=[begun], wanted=None, progress=progress)
    damages = _first_stage_index(result, report, version, progress)
    result.remaining = [_explained(damage, result) for damage in damages]
    return result


def _refuse_read_only(memory: Path, report: VerifyReport) -> None:
    """StorageError where nothing can be repaired, since nothing can be written."""
    if not os.access(memory, os.W_OK):
        more = f" and {len(report.damages) - 1} other things" if len(report.damages) > 1 else ""
        raise StorageError(
            f"{memory}: the memory is read-only, so {report.damages[0].path}{more} cannot be repaired in it; repair a "
            "copy that can be written"
        )


def _is_first_stage(damage: Damage) -> bool:
    """Whether it is the first-stage index that is damaged, which nothing else depends on."""
    return damage.kind == INDEX_KIND and Path(damage.path).name != id_maps.ID_MAP


def _first_stage_index(
    result: RepairResult, report: VerifyReport, version: int | None, progress: Progress
) -> list[Damage]:
    """Builds the version's first-stage index again if it is damaged; what is damaged still."""
    if not any(map(_is_first_stage, report.damages)):
        return report.damages
    place = rebuilt_index(result.memory, version, progress)
    if place is None:
        return report.damages
    result.repaired[str(place.relative_to(result.memory))] = "built again from the texts"
    return [damage for damage in report.damages if not _is_first_stage(damage)]


def _verified(memory: Path, version: int | None, progress: Progress) -> VerifyReport:
    progress.stage("verify", total=None, unit="shards")
    report = verify(memory, version=version, progress=lambda done, total: progress.at(done, total=total))
    progress.done()
    return report


def _explained(damage: Damage, result: RepairResult) -> Damage:
    """The damage with what is left to do, now that repair has been tried."""
    remedy = "restore it from a copy of the memory"
    if damage.kind == TEXT_KIND and result.lost:
        remedy = (
            f"the text is nowhere else in the memory: restore the file from a copy, or run `glimmer repair --drop "
            f"{result.memory}` and then `glimmer refresh SOURCE... --memory {result.memory}`"
        )
    elif damage.kind in _SHARD_KINDS and result.version is not None:
        remedy = f"restore it from a copy of the memory, or run `glimmer repair {result.memory}` on the newest version"
    return Damage(**asdict(damage) | {"remedy": remedy, "passages": damage.passages})


class _Repair:
    """One round: repairs what `report` lists."""

    def __init__(
        self, result: RepairResult, report: VerifyReport, model: str | None, drop: bool, progress: Progress
    ) -> None:
        self._result, self._report, self._model, self._drop = result, report, model, drop
        self._progress = progress
        self._path = result.memory
        self._catalog = Catalog(self._path)

    def run(self, version: int | None) -> None:
        kinds = {damage.kind for damage in self._report.damages}
        if kinds & {IDENTITY_KIND, TABLES_KIND, LOG_KIND}:
            self._originals()
            return  # nothing else can be trusted before these are whole
        memory = Memory.open(self._path, version, check=False)
        self._digests_and_metadata(memory)
        if CATALOG_KIND in kinds:
            self._catalog_files(memory)
            return
        if INDEX_KIND in kinds:
            self._id_map(memory)
        self._shards(memory)

    def _done(self, path: Path | str, how: str) -> None:
        name = str(path.relative_to(self._path)) if isinstance(path, Path) else path
        self._result.repaired[name] = how

    def _originals(self) -> None:
        """memory.json, codec tables, log: nothing to make them from, but a digest that tells a flipped bit."""
        latest = self._catalog.latest_version()
        for path in heal_log(self._catalog, latest):
            self._done(path, "flipped bit turned back")
        with contextlib.suppress(DamageError):
            wanted = self._catalog.read_manifest(latest).identity_sha256
            damaged = {self._path / damage.path for damage in self._report.damages}
            for path in heal_identity(self._path, wanted):
                if path in damaged:
                    self._done(path, "flipped bit turned back")

    def _digests_and_metadata(self, memory: Memory) -> None:
        for damage in self._report.damages:
            path = self._path / damage.path
            if damage.kind not in (METADATA_KIND, DIGESTS_KIND):
                continue
            reader = next(reader for reader in memory.readers if reader.segment == damage.segment)
            if damage.kind == METADATA_KIND:
                make_directories(path.parent)
                write_atomic(path, metadata_files(reader.shape)[str(path.relative_to(reader.directory))])
                self._done(path, "written again from the segment's shape")
            elif heal_digests(reader, memory.segments[reader.segment].digests_sha256):
                self._done(path, "restored, its digest agrees")

    def _id_map(self, memory: Memory) -> None:
        for damage in self._report.damages:
            if damage.kind == INDEX_KIND and not _is_first_stage(damage):
                id_maps.open_or_build(self._catalog, memory.manifest, rebuild=True)
                self._done(self._path / damage.path, "built again from the catalog")

    # Catalog files: the id map knows all that they say, but for what stands in the text shards.

    def _catalog_files(self, memory: Memory) -> None:
        damaged = {damage.path.split("/")[-1] for damage in self._report.damages if damage.kind == CATALOG_KIND}
        files = []
        for file in memory.manifest.files:
            if file.name in damaged:
                files.append(file)
        try:
            rows = self._missing_rows(memory, files)
        except GlimmerError:  # no id map of this version, or texts that cannot be read
            for file in files:
                if heal_file(self._catalog.directory / file.name, file.sha256):
                    self._done(self._catalog.directory / file.name, "flipped bit turned back")
            return
        if len(files) == 1 and self._put_back(files[0], rows):
            self._done(self._catalog.directory / files[0].name, "written again from id map and texts")
        elif memory.version == self._catalog.latest_version():
            manifest = self._commit(memory, [file.name for file in files], rows, None, {"catalog": sorted(damaged)})
            for file in files:
                self._done(self._catalog.directory / file.name, f"rows written again in version {manifest.version}")

    def _missing_rows(self, memory: Memory, files: Sequence[CatalogFile]) -> list[pa.Table]:
        """The rows of `files`: those passages of the id map that no other catalog file lists."""
        names = {file.name for file in files}
        missing = np.ones(memory.passages, np.bool_)
        for file in memory.manifest.files:
            if file.name not in names:
                for batch in read_catalog_file(self._catalog.directory, file, ["passage_id"]):
                    missing[memory.locate(batch.column("passage_id").to_pylist())] = False
        positions = np.flatnonzero(missing)
        segment, row = memory.rows(positions)
        order = np.lexsort((row, segment))
        positions, segment, row = positions[order], segment[order], row[order]
        tables = []
        for start in range(0, len(positions), SHARD_ROWS):
            part = slice(start, start + SHARD_ROWS)
            table = passage_rows(memory.texts(positions[part]), "", 0)
            names_ = [memory.readers[number].segment for number in segment[part].tolist()]
            tables.append(_placed(table, names_, row[part].tolist()))
        if sum(table.num_rows for table in tables) != sum(file.rows for file in files):
            raise DamageError(f"{self._catalog.directory}: the id map does not have the rows of the damaged files")
        return tables

    def _put_back(self, file: CatalogFile, rows: Iterable[pa.Table]) -> bool:
        place = self._catalog.directory / f"{TEMPORARY_PREFIX}repair"
        make_directories(place)
        try:
            [made] = list(write_catalog_files(place, rows, max_rows=file.rows))
            if made.sha256 != file.sha256:
                return False
            write_atomic(self._catalog.directory / file.name, (place / made.name).read_bytes())
        finally:
            remove_tree(place, within=self._path)
        return True

    # Shards.

    def _shards(self, memory: Memory) -> None:
        damaged: dict[tuple[str, int], set[str]] = defaultdict(set)
        for damage in self._report.damages:
            if damage.kind in _SHARD_KINDS and damage.segment is not None and damage.shard is not None:
                damaged[damage.segment, damage.shard].add(damage.kind)
        if not damaged:
            return
        live = _live_rows(memory, {segment for segment, _ in damaged})
        encoder, others = Reencoder(memory, self._model), OtherVersions(memory)
        stuck: list[Restored] = []
        lost: dict[str, None] = {}
        for (segment, shard), kinds in sorted(damaged.items()):
            reader = next(reader for reader in memory.readers if reader.segment == segment)
            try:
                _ = reader.records
            except DamageError:
                continue  # nothing says what the shard was: its digests come first
            here = {row: name for row, name in live[segment].items() if row // SHARD_ROWS == shard}
            restored = ShardRestorer(memory, reader, shard, kinds, here, encoder, others).run()
            self._result.recoded += restored.recoded
            for name in restored.put_back:
                self._done(f"segments/{segment}/{name}", "put back as it was written")
            lost |= dict.fromkeys(restored.lost.values())
            if restored.not_back and (self._drop or not restored.lost or restored.not_back != [TEXT_KIND]):
                stuck.append(restored)
            if sum(item.codes.nbytes for item in stuck if item.codes is not None) > _MOST_BYTES:
                break
        self._result.lost = [] if self._drop else list(lost)  # the last round meets all that stay
        if stuck and memory.version == self._catalog.latest_version():
            self._rewrite(memory, stuck)
            # A segment with a damaged shard, though no row of it lives, is still read by verify: empty it.
            waiting = {
                segment
                for segment, rows in live.items()
                if not self._drop and not lost.keys().isdisjoint(rows.values())
            }
            emptied = {item.segment for item in stuck} - waiting
            base = Memory.open(self._path, check=False)
            emptied &= set(base.segments)
            if emptied:
                self._result.new_version = merge(base, emptied, self._progress).version

    def _rewrite(self, memory: Memory, stuck: Sequence[Restored]) -> None:
        """One commit in which the rows that were restored stand in a new segment, and with `drop` the lost are gone."""
        places = [(item.segment, row) for item in stuck for row in item.rows]
        gone = [(item.segment, row) for item in stuck for row in item.lost] if self._drop else []
        if not places and not gone:
            return
        content = memory.manifest.content_sha256
        job = job_id("repair", {"base": memory.version, "content": content, "rows": places, "dropped": gone})
        with Ledger(self._path, job).lock():
            sealed = self._new_segment(memory, job, stuck) if places else None
            moved = {place: number for number, place in enumerate(places)}
            touched = {segment for segment, _ in [*places, *gone]}
            replaced = [file for file in memory.manifest.files if touched & set(file.segments)]

            def rows() -> Iterator[pa.Table]:
                for file in replaced:
                    for batch in read_catalog_file(self._catalog.directory, file):
                        yield _relocated(batch, moved, set(gone), sealed.segment if sealed else "")

            try:
                self._commit(
                    memory, [file.name for file in replaced], rows(), sealed, {"moved": len(places)}, len(gone), job
                )
            except ConflictError:
                remove_tree(SegmentWriter(self._path, segment_id(job)).directory, within=self._path)
                raise
            finally:
                Ledger(self._path, job).clear()
        self._result.moved += len(places)
        if self._drop:
            self._result.dropped += [name for item in stuck for name in item.lost.values()]
        for item in stuck:
            for kind in item.not_back:
                self._done(f"segments/{item.segment}/{kind}, shard {item.shard}", "live rows moved to a new segment")

    def _new_segment(self, memory: Memory, job: str, stuck: Sequence[Restored]) -> SealedSegment:
        writer = SegmentWriter(self._path, segment_id(job))
        remove_tree(writer.directory, within=self._path)  # of an interrupted repair
        total = sum(len(item.rows) for item in stuck)
        writer.create_arrays(total, memory.window, memory.codec.code_bytes)
        records = []
        for shard, (passages, codes) in enumerate(_shards_of(memory, stuck)):
            writer.write_text(shard, passages)
            lengths = np.array([len(passage.tokens) for passage in passages], np.int32)
            records.append(writer.write_shard(shard, codes, lengths))
        return writer.seal(records)

    def _commit(
        self,
        memory: Memory,
        remove: Sequence[str],
        add: Iterable[pa.Table],
        sealed: SealedSegment | None,
        details: Mapping[str, Any],
        removed: int = 0,
        job: str | None = None,
    ) -> Manifest:
        content = memory.manifest.content_sha256
        manifest = commit(
            self._path,
            base=memory.version,
            job=job or job_id("repair", {"base": memory.version, "content": content, "files": list(remove)}),
            operation="repair",
            add=add,
            remove=remove,
            segments=[] if sealed is None else [sealed],
            rows_added=0,
            rows_removed=removed,
            details=details,
        )
        self._result.new_version = manifest.version
        return manifest


def _shards_of(memory: Memory, stuck: Sequence[Restored]) -> Iterator[tuple[list[Passage], Any]]:
    """The restored rows, 1,024 at a time."""
    passages: list[Passage] = []
    parts: list[Any] = []
    for item in stuck:
        passages += with_places(memory, item.passages)
        parts.append(item.codes)
    codes = np.concatenate(parts)
    for start in range(0, len(passages), SHARD_ROWS):
        yield passages[start : start + SHARD_ROWS], codes[start : start + SHARD_ROWS]


def _live_rows(memory: Memory, segments: set[str]) -> dict[str, dict[int, str]]:
    """segment -> row -> passage id, of the live rows of `segments`."""
    live: dict[str, dict[int, str]] = {segment: {} for segment in segments}
    for batch in memory.passage_table(["passage_id", "segment", "row"]):
        columns = (batch.column(name).to_pylist() for name in ("passage_id", "segment", "row"))
        for name, segment, row in zip(*columns, strict=True):
            if segment in live:
                live[segment][row] = name
    return live


def _relocated(
    batch: pa.RecordBatch, moved: Mapping[tuple[str, int], int], gone: set[tuple[str, int]], segment: str
) -> pa.Table:
    """Catalog rows without those of `gone`, and those of `moved` at their new row of `segment`."""
    places = list(zip(batch.column("segment").to_pylist(), batch.column("row").to_pylist(), strict=True))
    names = [segment if place in moved else place[0] for place in places]
    table = _placed(pa.Table.from_batches([batch]), names, [moved.get(place, place[1]) for place in places])
    return table.filter(pa.array([place not in gone for place in places], pa.bool_()))


def _placed(table: pa.Table, segments: list[str], rows: list[int]) -> pa.Table:
    table = table.set_column(
        CATALOG_SCHEMA.get_field_index("segment"), CATALOG_SCHEMA.field("segment"), pa.array(segments, pa.string())
    )
    return table.set_column(
        CATALOG_SCHEMA.get_field_index("row"), CATALOG_SCHEMA.field("row"), pa.array(rows, pa.int32())
    )
