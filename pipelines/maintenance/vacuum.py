"""Vacuum: deletes what no kept version and no unfinished job needs.

Kept are the newest versions, as many as asked for, and every version that was the newest one at some time within the
threshold: a reader that opened it then keeps it. Of the rest goes what is older than the threshold by its files'
times; a time in the future is never old. Only names that Glimmer itself gives are touched, and nothing
is reached through a link inside the memory.

A directory disappears by one rename before its files are deleted, so that a vacuum which is killed leaves nothing that
looks whole. Commits wait while a vacuum runs: no rollback can name again what is being deleted.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ... import ConflictError, DamageError, UsageError
from ...progress import Progress, Quiet
from ...storage.catalog import Catalog
from ...storage.files import REMOVED_PREFIX, TEMPORARY_PREFIX
from ...storage.identity import read_identity
from ...storage.ledger import JOBS, Ledger
from ...storage.manifest import Manifest, check_name, is_catalog_file_name
from ...storage.segment_layout import SEGMENTS, is_segment_id
from ...storage.stores import Entry, Place, Store, open_store
from ...storage.vacuumed import PASSAGES
from ...storage.version_indexes import INDEXES
from ..defaults import DEFAULT_VERSIONS
from ..jobs import segment_id

DEFAULT_AGE: Final = datetime.timedelta(days=7)
_GRACE_S: Final = 3600.0
"""A temporary file may belong to a live process of any kind; it is left alone for an hour whatever the threshold.
What a killed process was deleting is not: nobody uses it."""
_REJECTED: Final = re.compile(r"(.+)\.rejected\.jsonl")
_INDEX_LEFTOVER: Final = re.compile(r"\.[a-z0-9]+\.[0-9a-f]{12}\.(tmp|old)")
_LOCK_FILE: Final = ".__lock"  # TensorStore's, left behind when a process is killed


@dataclass(frozen=True, kw_only=True)
class VacuumResult:
    """What a vacuum deleted, or with `dry_run` would delete.

    Attributes:
        memory: which memory.
        oldest, newest: the versions that are kept, all between them included.
        segments, catalog_files, indexes, jobs, leftovers: how many of each were deleted; leftovers are temporary files
            of processes that were killed, and dead-letter files of jobs that never committed.
        kept_jobs: unfinished jobs whose work is kept: they run now, or are younger than the threshold.
        bytes: bytes freed.
        paths: what was deleted, relative to the memory.
        dry_run: nothing was deleted.
    """

    memory: Path | str
    oldest: int
    newest: int
    segments: int
    catalog_files: int
    indexes: int
    jobs: int
    leftovers: int
    kept_jobs: tuple[str, ...]
    bytes: int
    paths: tuple[str, ...]
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        return asdict(self) | {"memory": str(self.memory)}


def vacuum(
    *,
    memory: Place,
    older_than: datetime.timedelta = DEFAULT_AGE,
    keep_versions: int = DEFAULT_VERSIONS,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> VacuumResult:
    """Deletes segments, catalog files, indexes and job directories of a memory that nothing needs any more.

    Args:
        memory: the memory's directory.
        older_than: the threshold; zero trusts that no reader is left on a version that is not kept. In a bucket at
            least a day, and it should be more than the longest job takes.
        keep_versions: how many of the newest versions to keep whatever their age; at least one.
        dry_run: only say what would be deleted; writes nothing.
        progress: progress callback, in files and directories deleted.

    Raises:
        UsageError: there is no memory, or the threshold is too small for a bucket.
        DamageError: a damaged catalog, or a link in place of one of the memory's directories; nothing is deleted then.
        ConflictError: a commit is under way.
        StorageError: the file system refuses.

    Rollback to, and opening of, a version that lost a file is a UsageError that says so afterwards. Killed at any
    moment, it is simply run again.

    Examples:
        >>> glimmer.vacuum(memory="wiki.memory", dry_run=True).paths
        ()
    """
    if keep_versions < 1 or older_than < datetime.timedelta(0):
        raise UsageError("a vacuum keeps at least one version, and its threshold cannot be negative")
    store, progress = open_store(memory), progress or Quiet()
    if older_than < store.least_vacuum_age and not dry_run:
        hours = store.least_vacuum_age.total_seconds() / 3600
        raise UsageError(
            f"in a bucket age alone tells what a job or a reader may still need: a vacuum deletes what is at least "
            f"{hours:g} hours old there",
            where=store.location,
            remedy=f"give --older-than {hours:g}h or more, and more than your longest job takes",
        )
    read_identity(store)
    store.refuse_links()
    catalog = Catalog(store)
    with contextlib.nullcontext() if dry_run else catalog.lock(shared=False):
        # The machine that holds the disk may have another clock: the earlier of the two makes files younger.
        now = time.time() if dry_run else min(time.time(), store.clock())
        history = _sound_history(catalog)
        found = _Search(catalog, history, now, older_than.total_seconds(), keep_versions)
        to_delete = [*found.jobs(), *found.segments(), *found.catalog_files(), *found.indexes(), *found.leftovers()]
        deleted = to_delete if dry_run else _delete(store, to_delete, progress)
    counts = {kind: sum(item.kind == kind for item in deleted) for kind in _KINDS}
    return VacuumResult(
        memory=store.location,
        oldest=found.oldest,
        newest=history[0].version,
        kept_jobs=tuple(sorted(found.kept_jobs)),
        bytes=sum(item.bytes for item in deleted),
        paths=tuple(item.key for item in deleted),
        dry_run=dry_run,
        **counts,
    )


_KINDS: Final = ("segments", "catalog_files", "indexes", "jobs", "leftovers")


@dataclass(frozen=True)
class _Deletion:
    kind: str
    key: str
    bytes: int
    is_tree: bool

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


def _sound_history(catalog: Catalog) -> list[Manifest]:
    """All manifests, newest first; what a damaged log does not say must not be taken for unneeded."""
    damaged = catalog.check_log(catalog.latest_version())
    if damaged:
        raise DamageError(
            f"{catalog.store.name(damaged[0][0])}: the catalog's log is damaged, so nothing is deleted; "
            f"run `glimmer verify {catalog.memory}` first"
        )
    catalog.manifest()
    return catalog.history()


def _delete(store: Store, to_delete: list[_Deletion], progress: Progress) -> list[_Deletion]:
    deleted: list[_Deletion] = []
    segments = {item.key: item for item in to_delete if item.kind == "segments"}
    by_job = {segment_id(item.name) for item in to_delete if item.kind == "jobs"}
    progress.stage("vacuum", total=len(to_delete), unit="files and directories")
    for item in to_delete:
        if item.kind == "jobs":
            deleted += _delete_job(store, item, segments)
        elif item.kind == "segments" and item.name in by_job:
            continue  # goes with its job, or stays with it
        else:
            _remove(store, item)
            deleted.append(item)
        progress.at(len(deleted))
    progress.done()
    return deleted


def _delete_job(store: Store, job: _Deletion, segments: Mapping[str, _Deletion]) -> list[_Deletion]:
    """Deletes a job's ledger and segment while holding its lock; nothing if it has just been started again."""
    ledger = Ledger(store, job.name)
    deleted = [job]
    try:
        with ledger.lock():
            ledger.forget()  # first: a ledger must not promise shards that are gone
            segment = segments.get(f"{SEGMENTS}/{segment_id(job.name)}")
            if segment is not None:
                _remove(store, segment)
                deleted.append(segment)
            _remove(store, job)
    except ConflictError:
        return []
    return deleted


def _remove(store: Store, item: _Deletion) -> None:
    if item.is_tree:
        store.delete_tree(item.key)
    else:
        store.delete(item.key)


class _Search:
    """What may go, kind by kind, in the order of deletion: a job's ledger before its segment."""

    def __init__(self, catalog: Catalog, history: list[Manifest], now: float, age_s: float, keep: int) -> None:
        self._store, self._history = catalog.store, history
        self._cutoff, self._grace = now - age_s, now - max(age_s, _GRACE_S)
        newest = history[0].version
        self.oldest = max(newest - keep + 1, 0)
        for later in history[:-1]:  # the version before `later` was the newest one until `later` was committed
            if _seconds(later.time) >= self._cutoff:
                self.oldest = min(self.oldest, later.version - 1)
        self._kept = [manifest for manifest in history if manifest.version >= self.oldest]
        self.kept_jobs: set[str] = set()
        self._needed_segments = {name for manifest in self._kept for name in manifest.segments}

    def _old(self, key: str) -> bool:
        return self._store.tree_time(key) < self._cutoff

    def _deletion(self, kind: str, entry: Entry) -> _Deletion:
        return _Deletion(kind, entry.key, self._store.tree_size(entry.key), entry.kind == "directory")

    def jobs(self) -> Iterator[_Deletion]:
        finished = {manifest.job for manifest in self._history}
        for entry in self._directories(JOBS):
            if not check_name(entry.name):
                continue
            segment = segment_id(entry.name)
            unfinished = entry.name not in finished
            young = unfinished and not (self._old(entry.key) and self._old(f"{SEGMENTS}/{segment}"))
            if young or Ledger(self._store, entry.name).running:
                if unfinished:
                    self.kept_jobs.add(entry.name)
                self._needed_segments.add(segment)
            else:
                yield self._deletion("jobs", entry)

    def segments(self) -> Iterator[_Deletion]:
        for entry in self._directories(SEGMENTS):
            if is_segment_id(entry.name) and entry.name not in self._needed_segments and self._old(entry.key):
                yield self._deletion("segments", entry)

    def catalog_files(self) -> Iterator[_Deletion]:
        named = {file.name for manifest in self._kept for file in manifest.files}
        for entry in self._files(PASSAGES):
            if is_catalog_file_name(entry.name) and entry.name not in named and self._old(entry.key):
                yield self._deletion("catalog_files", entry)

    def indexes(self) -> Iterator[_Deletion]:
        for entry in self._directories(INDEXES):
            if entry.name.isdigit() and int(entry.name) < self.oldest and self._old(entry.key):
                yield self._deletion("indexes", entry)

    def leftovers(self) -> Iterator[_Deletion]:
        running = {segment_id(job) for job in self.kept_jobs}
        live = [e.key for e in self._directories(SEGMENTS) if e.name in self._needed_segments - running]
        inside = [folder for key in live for folder in (key, *(entry.key for entry in self._directories(key)))]
        kept = [entry.key for entry in self._directories(INDEXES) if entry.name.isdigit()]
        for folder in ("", "codec", PASSAGES, SEGMENTS, INDEXES, JOBS, *inside, *kept):
            for entry in (*self._directories(folder), *self._files(folder)):
                ours = entry.name.startswith(TEMPORARY_PREFIX) or (
                    (folder in inside and entry.name.endswith(_LOCK_FILE) and entry.kind == "file")
                    or (folder in kept and _INDEX_LEFTOVER.fullmatch(entry.name) is not None)
                )
                if entry.name.startswith(REMOVED_PREFIX) or (ours and self._store.tree_time(entry.key) < self._grace):
                    yield self._deletion("leftovers", entry)
        known = {manifest.job for manifest in self._kept} | self.kept_jobs
        for entry in self._files(JOBS):
            match = _REJECTED.fullmatch(entry.name)
            if match and match.group(1) not in known and self._old(entry.key):
                yield self._deletion("leftovers", entry)

    def _directories(self, folder: str) -> list[Entry]:
        return [entry for entry in self._store.entries(folder) if entry.kind == "directory" and not entry.link]

    def _files(self, folder: str) -> list[Entry]:
        return [entry for entry in self._store.entries(folder) if entry.kind == "file" and not entry.link]


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()
