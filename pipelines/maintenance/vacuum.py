"""Vacuum: deletes what no version that is kept, and no job that may go on, has any use for.

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
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ... import ConflictError, DamageError, UsageError
from ...progress import Progress, Quiet
from ...storage.catalog import Catalog
from ...storage.files import REMOVED_PREFIX, TEMPORARY_PREFIX, file_system_time, tree_size, tree_time
from ...storage.identity import read_identity
from ...storage.ledger import JOBS, Ledger
from ...storage.manifest import Manifest, check_name, is_catalog_file_name
from ...storage.paths import local_path
from ...storage.removal import refuse_links, remove_file, remove_tree
from ...storage.segment_layout import SEGMENTS, is_segment_id
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

    memory: Path
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
    memory: str | Path,
    older_than: datetime.timedelta = DEFAULT_AGE,
    keep_versions: int = DEFAULT_VERSIONS,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> VacuumResult:
    """Deletes segments, catalog files, indexes and job directories of a memory that nothing needs any more.

    Args:
        memory: the memory's directory.
        older_than: the threshold; zero trusts that no reader is left on a version that is not kept.
        keep_versions: how many of the newest versions to keep whatever their age; at least one.
        dry_run: only say what would be deleted; writes nothing.
        progress: hears how many things are deleted.

    Rollback to, and opening of, a version that lost a file is a UsageError that says so afterwards. Raises UsageError
    where there is no memory, DamageError for a damaged catalog or for a link in place of one of the memory's
    directories (nothing is deleted then), ConflictError while a commit is under way, StorageError when the file system
    refuses. Killed at any moment, it is simply run again.
    """
    if keep_versions < 1 or older_than < datetime.timedelta(0):
        raise UsageError("a vacuum keeps at least one version, and its threshold cannot be negative")
    directory, progress = local_path(memory), progress or Quiet()
    read_identity(directory)
    refuse_links(directory)
    catalog = Catalog(directory)
    with contextlib.nullcontext() if dry_run else catalog.lock(shared=False):
        # The machine that holds the disk may have another clock: the earlier of the two makes things younger.
        now = time.time() if dry_run else min(time.time(), file_system_time(catalog.directory))
        history = _sound_history(catalog)
        found = _Search(catalog, history, now, older_than.total_seconds(), keep_versions)
        doomed = [*found.jobs(), *found.segments(), *found.catalog_files(), *found.indexes(), *found.leftovers()]
        deleted = doomed if dry_run else _delete(directory, doomed, progress)
    counts = {kind: sum(thing.kind == kind for thing in deleted) for kind in _KINDS}
    return VacuumResult(
        memory=directory,
        oldest=found.oldest,
        newest=history[0].version,
        kept_jobs=tuple(sorted(found.kept_jobs)),
        bytes=sum(thing.bytes for thing in deleted),
        paths=tuple(str(thing.path.relative_to(directory)) for thing in deleted),
        dry_run=dry_run,
        **counts,
    )


_KINDS: Final = ("segments", "catalog_files", "indexes", "jobs", "leftovers")


@dataclass(frozen=True)
class _Thing:
    kind: str
    path: Path
    bytes: int


def _sound_history(catalog: Catalog) -> list[Manifest]:
    """All manifests, newest first; what a damaged log does not say must not be taken for unneeded."""
    damaged = catalog.check_log(catalog.latest_version())
    if damaged:
        raise DamageError(
            f"{damaged[0][0]}: the catalog's log is damaged, so nothing is deleted; run `glimmer verify "
            f"{catalog.memory}` first"
        )
    catalog.manifest()
    return catalog.history()


def _delete(memory: Path, doomed: list[_Thing], progress: Progress) -> list[_Thing]:
    deleted: list[_Thing] = []
    segments = {thing.path: thing for thing in doomed if thing.kind == "segments"}
    by_job = {segment_id(thing.path.name) for thing in doomed if thing.kind == "jobs"}
    progress.stage("vacuum", total=len(doomed), unit="things")
    for thing in doomed:
        if thing.kind == "jobs":
            deleted += _delete_job(memory, thing, segments)
        elif thing.kind == "segments" and thing.path.name in by_job:
            continue  # goes with its job, or stays with it
        else:
            _remove(memory, thing.path)
            deleted.append(thing)
        progress.at(len(deleted))
    progress.done()
    return deleted


def _delete_job(memory: Path, job: _Thing, segments: Mapping[Path, _Thing]) -> list[_Thing]:
    """Deletes a job's ledger and segment while holding its lock; nothing if it has just been started again."""
    ledger = Ledger(memory, job.path.name)
    deleted = [job]
    try:
        with ledger.lock():
            ledger.forget()  # first: a ledger must not promise shards that are gone
            segment = segments.get(memory / SEGMENTS / segment_id(job.path.name))
            if segment is not None:
                _remove(memory, segment.path)
                deleted.append(segment)
            _remove(memory, job.path)
    except ConflictError:
        return []
    return deleted


def _remove(memory: Path, path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path, within=memory)
    else:
        remove_file(path, within=memory)


class _Search:
    """What may go, kind by kind, in the order of deletion: a job's ledger before its segment."""

    def __init__(self, catalog: Catalog, history: list[Manifest], now: float, age_s: float, keep: int) -> None:
        self._memory, self._history = catalog.memory, history
        self._cutoff, self._grace = now - age_s, now - max(age_s, _GRACE_S)
        newest = history[0].version
        self.oldest = max(newest - keep + 1, 0)
        for later in history[:-1]:  # the version before `later` was the newest one until `later` was committed
            if _seconds(later.time) >= self._cutoff:
                self.oldest = min(self.oldest, later.version - 1)
        self._kept = [manifest for manifest in history if manifest.version >= self.oldest]
        self.kept_jobs: set[str] = set()
        self._needed_segments = {name for manifest in self._kept for name in manifest.segments}

    def _old(self, path: Path) -> bool:
        return tree_time(path) < self._cutoff

    def jobs(self) -> Iterator[_Thing]:
        finished = {manifest.job for manifest in self._history}
        for path in _directories(self._memory / JOBS):
            if not check_name(path.name):
                continue
            segment = self._memory / SEGMENTS / segment_id(path.name)
            unfinished = path.name not in finished
            young = unfinished and not (self._old(path) and self._old(segment))
            if young or Ledger(self._memory, path.name).running:
                if unfinished:
                    self.kept_jobs.add(path.name)
                self._needed_segments.add(segment.name)
            else:
                yield _Thing("jobs", path, tree_size(path))

    def segments(self) -> Iterator[_Thing]:
        for path in _directories(self._memory / SEGMENTS):
            if is_segment_id(path.name) and path.name not in self._needed_segments and self._old(path):
                yield _Thing("segments", path, tree_size(path))

    def catalog_files(self) -> Iterator[_Thing]:
        named = {file.name for manifest in self._kept for file in manifest.files}
        for path in _files(self._memory / PASSAGES):
            if is_catalog_file_name(path.name) and path.name not in named and self._old(path):
                yield _Thing("catalog_files", path, tree_size(path))

    def indexes(self) -> Iterator[_Thing]:
        for path in _directories(self._memory / INDEXES):
            if path.name.isdigit() and int(path.name) < self.oldest and self._old(path):
                yield _Thing("indexes", path, tree_size(path))

    def leftovers(self) -> Iterator[_Thing]:
        running = {segment_id(job) for job in self.kept_jobs}
        live = [path for path in _directories(self._memory / SEGMENTS) if path.name in self._needed_segments - running]
        inside = [folder for path in live for folder in (path, *_directories(path))]
        kept = [path for path in _directories(self._memory / INDEXES) if path.name.isdigit()]
        top = [self._memory / name for name in ("", "codec", PASSAGES, SEGMENTS, INDEXES, JOBS)]
        for folder in (*top, *inside, *kept):
            for path in (*_directories(folder), *_files(folder)):
                ours = path.name.startswith(TEMPORARY_PREFIX) or (
                    (folder in inside and path.name.endswith(_LOCK_FILE) and path.is_file())
                    or (folder in kept and _INDEX_LEFTOVER.fullmatch(path.name) is not None)
                )
                if path.name.startswith(REMOVED_PREFIX) or (ours and tree_time(path) < self._grace):
                    yield _Thing("leftovers", path, tree_size(path))
        known = {manifest.job for manifest in self._kept} | self.kept_jobs
        for path in _files(self._memory / JOBS):
            match = _REJECTED.fullmatch(path.name)
            if match and match.group(1) not in known and self._old(path):
                yield _Thing("leftovers", path, tree_size(path))


def _directories(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in _entries(folder) if entry.is_dir(follow_symlinks=False))


def _files(folder: Path) -> list[Path]:
    return sorted(Path(entry.path) for entry in _entries(folder) if entry.is_file(follow_symlinks=False))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _seconds(moment: str) -> float:
    return datetime.datetime.fromisoformat(moment).timestamp()
