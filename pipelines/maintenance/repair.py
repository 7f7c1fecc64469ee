"""Repair: what `verify` finds damaged is put back as it was written, or written anew, or named as lost.

Whatever follows from something whole is made again: Zarr metadata from the shape, indexes from the catalog, a catalog
file from id map and text, codes from the stored tokens. A file is replaced only by bytes with the recorded SHA-256.
Where equal bytes cannot be had (another build of a compressor, say) the segment's live rows go to new ones. What
exists once only, memory.json, the codec's tables and the log, is restored if one flipped bit is all that is wrong, as
is a catalog file that cannot be written again; text is looked for in other versions. Anything else needs a copy of the
memory, or for passages their source: `drop=True` gives them up, so that a refresh adds them again.
"""

from __future__ import annotations

import contextlib

from ... import DamageError, StorageError
from ...progress import Progress, Quiet
from ...reader.serving.retrieval_index import index_new_version, rebuilt_index
from ...storage import version_indexes as id_maps
from ...storage.catalog import Catalog
from ...storage.healing import heal_digests, heal_identity, heal_log
from ...storage.memory import Memory
from ...storage.segment_layout import metadata_files
from ...storage.stores import Place, Store, open_store
from ...storage.verify import (
    CATALOG_KIND,
    DIGESTS_KIND,
    IDENTITY_KIND,
    INDEX_KIND,
    LOG_KIND,
    METADATA_KIND,
    TABLES_KIND,
    Damage,
    VerifyReport,
    verify,
)
from ...wording import counted
from ..engines import Engine
from .repair_catalog import repair_catalog_files
from .repair_report import RepairResult, explained
from .repair_shards import repair_shards


def repair(
    *,
    memory: Place,
    model: str | None = None,
    version: int | None = None,
    drop: bool = False,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> RepairResult:
    """Verifies a version of a memory and repairs what it can.

    Args:
        memory: the memory's directory.
        model: a model directory or built-in name with the memory's encoder; None takes the one memory.json names. It
            is loaded only if codes have to be made again.
        version: which version; None takes the newest. Of an older one only what can be put back as it was is repaired.
        drop: give up passages whose text is lost, in a new version; `glimmer refresh` then adds them again.
        engine: where damaged shards are restored; None does it in this process, as is done with what else is damaged.
        progress: progress callback.

    Raises:
        UsageError: there is no such memory, version or model.
        MismatchError: a model with another encoder.
        ConflictError: another job changes the memory meanwhile.
        StorageError: the file system refuses.

    Damage that stays is in the result, never an error.

    Examples:
        >>> glimmer.repair(memory="wiki.memory").sound
        True
    """
    store = open_store(memory)
    result = RepairResult(memory=store.location)
    progress = progress or Quiet()
    report = _verified(store, version, progress)
    result.version, result.found = report.version, len(report.damages)
    if not report.sound:
        _refuse_read_only(store, report)
        store.refuse_links()
    begun = result.version
    while not all(map(_is_first_stage, report.damages)):  # a catalog file comes before shards can be told to be whole
        before = (len(result.repaired), result.new_version)
        _repair_round(
            *(store, result, report, version), model=model, drop=drop, engine=engine or Engine(), progress=progress
        )
        if (len(result.repaired), result.new_version) == before:
            break
        report = _verified(store, version, progress)
        result.version = result.version if result.version is not None else report.version
    if result.new_version is not None and begun is not None:
        index_new_version(store, result.new_version, before=[begun], wanted=None, progress=progress)
    damages = _first_stage_index(store, result, report, version, progress)
    result.remaining = [explained(damage, result) for damage in damages]
    return result


def _refuse_read_only(store: Store, report: VerifyReport) -> None:
    """StorageError where nothing can be repaired, since nothing can be written."""
    if not store.is_writable():
        others = len(report.damages) - 1
        more = f" and {counted(others, 'other damaged file')}" if others else ""
        raise StorageError(
            f"{store.location}: the memory is read-only, so {report.damages[0].path}{more} cannot be repaired in it; "
            "repair a copy that can be written"
        )


def _is_first_stage(damage: Damage) -> bool:
    """Whether it is the first-stage index that is damaged, which nothing else depends on."""
    return damage.kind == INDEX_KIND and damage.path.rpartition("/")[2] != id_maps.ID_MAP


def _first_stage_index(
    store: Store, result: RepairResult, report: VerifyReport, version: int | None, progress: Progress
) -> list[Damage]:
    """Builds the version's first-stage index again if it is damaged; what is damaged still."""
    if not any(map(_is_first_stage, report.damages)):
        return report.damages
    place = rebuilt_index(store, version, progress)
    if place is None:
        return report.damages
    result.note(place, "built again from the texts")
    return [damage for damage in report.damages if not _is_first_stage(damage)]


def _verified(store: Store, version: int | None, progress: Progress) -> VerifyReport:
    progress.stage("verify", total=None, unit="shards")
    report = verify(store, version=version, progress=lambda done, total: progress.at(done, total=total))
    progress.done()
    return report


def _repair_round(
    store: Store,
    result: RepairResult,
    report: VerifyReport,
    version: int | None,
    *,
    model: str | None,
    drop: bool,
    engine: Engine,
    progress: Progress,
) -> None:
    """Repairs what `report` lists, as far as what it needs is whole."""
    kinds = {damage.kind for damage in report.damages}
    if kinds & {IDENTITY_KIND, TABLES_KIND, LOG_KIND}:
        _repair_originals(store, result, report)
        return  # nothing else can be trusted before these are whole
    memory = Memory.open(store, version, check=False)
    _repair_digests_and_metadata(memory, report, result)
    if CATALOG_KIND in kinds:
        repair_catalog_files(memory, report.damages, result, progress)
        return
    if INDEX_KIND in kinds:
        _rebuild_id_map(memory, report, result)
    repair_shards(memory, report, result, model=model, drop=drop, engine=engine, progress=progress)


def _repair_originals(store: Store, result: RepairResult, report: VerifyReport) -> None:
    """memory.json, codec tables, log: nothing to make them from, but a digest that tells a flipped bit."""
    catalog = Catalog(store)
    latest = catalog.latest_version()
    for key in heal_log(catalog, latest):
        result.note(key, "flipped bit turned back")
    with contextlib.suppress(DamageError):
        wanted = catalog.read_manifest(latest).identity_sha256
        damaged = {damage.path for damage in report.damages}
        for key in heal_identity(store, wanted):
            if key in damaged:
                result.note(key, "flipped bit turned back")


def _repair_digests_and_metadata(memory: Memory, report: VerifyReport, result: RepairResult) -> None:
    for damage in report.damages:
        if damage.kind not in (METADATA_KIND, DIGESTS_KIND):
            continue
        reader = next(reader for reader in memory.readers if reader.segment == damage.segment)
        if damage.kind == METADATA_KIND:
            content = metadata_files(reader.shape)[damage.path.removeprefix(f"{reader.key}/")]
            memory.store.put(damage.path, content)
            result.note(damage.path, "written again from the segment's shape")
        elif heal_digests(reader, memory.segments[reader.segment].digests_sha256):
            result.note(damage.path, "restored, its digest agrees")


def _rebuild_id_map(memory: Memory, report: VerifyReport, result: RepairResult) -> None:
    for damage in report.damages:
        if damage.kind == INDEX_KIND and not _is_first_stage(damage):
            id_maps.open_or_build(memory.catalog, memory.manifest, rebuild=True)
            result.note(damage.path, "built again from the catalog")
