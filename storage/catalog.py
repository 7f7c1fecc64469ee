"""The catalog: a Delta Lake table that says which passages are live and where, one commit a version.

Delta orders the commits and lets exactly one of two racing writers through; the manifest in each commit (see
`manifest`) says what the bytes must be. A commit removes the files that held dead rows and adds new ones in one step.
It names its job, so a retry from a fresh process recognises its own work and never applies it twice. We never let
Delta rewrite, checkpoint or expire anything: whatever it writes itself carries no checksum we could verify.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from .. import ConflictError, DamageError, GlimmerError, StorageError, UsageError
from .catalog_files import CATALOG_SCHEMA, MAX_FILE_ROWS, read_catalog_file, write_catalog_files
from .catalog_log import CatalogLog
from .files import damage, sha256_bytes, translated
from .manifest import CatalogFile, Manifest, SegmentEntry, check_name, commit_time
from .segment_writer import SealedSegment
from .stores import Place, open_store
from .vacuumed import PASSAGES, vacuumed

_LOCK = f"{PASSAGES}/.commit-lock"
_APPLICATION = "glimmer"
_CONFIGURATION: dict[str, str | None] = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.checkpointInterval": "1000000000",
}
# Checkpoints are Parquet without page checksums; a log of JSON entries is checked through the manifests.
_NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


class Catalog:
    """The Delta table `passages/` of the memory at `memory`. Holds no state: every call looks at the store."""

    def __init__(self, memory: Place) -> None:
        self.store = open_store(memory)
        self.memory = self.store.location
        self.name = self.store.name(PASSAGES)
        self.log = CatalogLog(self.store)
        self._remedy = f"run `glimmer verify {self.memory}`"

    # Reading.

    @property
    def exists(self) -> bool:
        """Whether version 0 has been committed."""
        return self.log.has(0)

    def latest_version(self) -> int:
        """Number of the newest version, by the names in the log; raises UsageError when there is no memory.

        DamageError where the newest is so far beyond the others that nobody could look for those between.
        """
        return self.log.latest()

    def manifest(self, version: int | None = None) -> Manifest:
        """The manifest of `version` (default: the newest), checked against Delta's own list of live files.

        Raises UsageError for a version that does not exist, DamageError when log and manifest disagree or are damaged.
        """
        latest = self.latest_version()
        if version is None:
            version = latest
        if not 0 <= version <= latest:
            raise UsageError(f"version {version} does not exist", where=self.memory, remedy=f"the newest is {latest}")
        manifest = self.read_manifest(version)
        with self.log.table(version) as table:
            self._check_delta(manifest, table)
        return manifest

    def read_manifest(self, version: int) -> Manifest:
        """The manifest of `version` by itself: its own checksum is checked, Delta's state is not built."""
        path = self.store.name(self.log.key(version))
        content = self.log.read(version)
        with translated(path, damage(path, self._remedy)):
            infos = [
                entry["commitInfo"] for line in content.splitlines() if "commitInfo" in (entry := json.loads(line))
            ]
            if len(infos) != 1:
                raise DamageError(f"{len(infos)} commitInfo entries, expected one", where=path, remedy=self._remedy)
            return Manifest.from_commit(infos[0], version)

    def history(self) -> list[Manifest]:
        """The manifests of all versions, newest first."""
        return [self.read_manifest(version) for version in range(self.latest_version(), -1, -1)]

    def scan(self, manifest: Manifest, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Streams the live rows of a version, each file checked against its SHA-256 before a row of it is given out."""
        for file in manifest.files:
            yield from read_catalog_file(self.store, file, columns)

    def check_log(self, latest: int) -> list[tuple[str, str]]:
        """(key of a log entry, what is wrong) for every damaged one up to `latest`; each is chained to the last."""
        found: list[tuple[str, str]] = []
        previous: str | None = ""
        for version in range(latest + 1):
            try:
                manifest = self.read_manifest(version)
                if previous is not None and manifest.previous_sha256 != previous:
                    found.append((self.log.key(version - 1), "its bytes are not those that the next version saw"))
                previous = sha256_bytes(self.log.read(version))
            except DamageError as error:
                found.append((self.log.key(version), error.what))
                previous = None
        return found

    def _check_delta(self, manifest: Manifest, table: DeltaTable) -> None:
        with translated(self.log.name, damage(self.log.name, self._remedy)):
            actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
        live = {(action["path"], action["size_bytes"], action["num_records"]) for action in actions}
        expected = {(file.name, file.bytes, file.rows) for file in manifest.files}
        if live != expected:
            raise DamageError(
                f"{self.log.name}: version {manifest.version} lists {len(live)} live files, its manifest "
                f"{len(expected)}, and {len(live ^ expected)} differ; {self._remedy}"
            )

    # Writing.

    def create(self, *, identity_sha256: str, job: str = "create") -> Manifest:
        """Commits version 0, a memory without passages; if it is there already, returns it."""
        if not self.exists:
            manifest = Manifest(
                version=0,
                time=commit_time(None),
                operation="create",
                job=_checked(job),
                files=(),
                segments={},
                rows_added=0,
                rows_removed=0,
                identity_sha256=identity_sha256,
                previous_sha256="",
            )

            def write(uri: str, options: dict[str, str]) -> None:
                create_table_with_add_actions(
                    uri,
                    Schema.from_arrow(CATALOG_SCHEMA),
                    [],
                    mode="error",
                    configuration=_CONFIGURATION,
                    storage_options=options or None,
                    commit_properties=CommitProperties(
                        custom_metadata=dict(manifest.commit_metadata()), max_commit_retries=0
                    ),
                    post_commithook_properties=_NO_HOOKS,
                )

            with self.store.refusals(PASSAGES):
                self.log.create(write)
                self.log.sync(0)
        return self.manifest(0)

    def commit(
        self,
        *,
        base: int,
        job: str,
        operation: str,
        add: Iterable[pa.Table | pa.RecordBatch] = (),
        remove: Collection[str] = (),
        restore: Collection[CatalogFile] = (),
        segments: Mapping[str, SegmentEntry] | Iterable[SealedSegment] = (),
        rows_added: int | None = None,
        rows_removed: int | None = None,
        details: Mapping[str, Any] | None = None,
        prepare: Callable[[Manifest], None] | None = None,
        max_file_rows: int = MAX_FILE_ROWS,
    ) -> Manifest:
        """Makes version `base + 1`: drops the files named in `remove`, adds the rows of `add`, in one Delta commit.

        Args:
            base: the version the job was computed from.
            job: id of the job, unique to inputs, settings and base; a second call with the same job returns the version
                the first one made and changes nothing.
            operation: word for the history.
            add: tables or batches with the columns of CATALOG_SCHEMA, best sorted by (segment, row).
            remove: names of live files to drop. Survivors among their rows must be part of `add`.
            restore: files of an earlier version to make live again as they are.
            segments: segments that `add` or `restore` refer to and `base` does not know.
            rows_added, rows_removed: passages added and removed, for the history; default: by the rows of the files.
            details: JSON-able notes for the history.
            prepare: called with the finished manifest before it is committed; what it raises stops the commit.
            max_file_rows: rows in one catalog file at most.

        Returns the manifest of the new version. Raises ConflictError when another job committed after `base`,
        UsageError for rows that cannot be, StorageError when the file system refuses; nothing is committed then.
        """
        _checked(job)
        if not check_name(operation):
            raise UsageError(f"operation {operation!r} is not made of lower-case letters, digits and hyphens")
        latest = self.latest_version()
        if latest != base:
            return self._already(job, base, latest)
        with self.lock(shared=True), contextlib.ExitStack() as undo:
            current = self.manifest(base)
            unknown = set(remove) - {file.name for file in current.files}
            if unknown:
                raise UsageError(f"version {base} has no live files {sorted(unknown)[:3]}", where=self.name)
            written: list[CatalogFile] = []
            undo.callback(self._discard, written, base + 1)
            for file in write_catalog_files(self.store, add, max_rows=max_file_rows):
                written.append(file)
            kept = [file for file in current.files if file.name not in set(remove)]
            files = tuple(sorted([*kept, *restore, *written], key=lambda file: file.name))
            manifest = Manifest(
                version=base + 1,
                time=commit_time(current.time),
                operation=operation,
                job=job,
                files=files,
                segments=self._live_segments(files, current.segments, segments),
                rows_added=0,
                rows_removed=0,
                identity_sha256=current.identity_sha256,
                previous_sha256=sha256_bytes(self.log.read(base)),
                details=dict(details or {}),
            )
            change = manifest.passages - current.passages
            manifest = replace(
                manifest,
                rows_added=max(change, 0) if rows_added is None else rows_added,
                rows_removed=max(-change, 0) if rows_removed is None else rows_removed,
            )
            if prepare is not None:
                prepare(manifest)
            if not self._publish(manifest, current):
                return self._already(job, base, self.latest_version())
            undo.pop_all()
        return manifest

    def rollback(
        self,
        *,
        to: int,
        base: int,
        job: str,
        rows: tuple[int, int] | None = None,
        prepare: Callable[[Manifest], None] | None = None,
    ) -> Manifest:
        """Makes version `base + 1` with exactly the live files of version `to`; `base` stays in the history.

        `rows` are the passages that come and go, for the history; None records by how many the totals differ. Raises
        UsageError if `to` does not exist or a file of it has been vacuumed, else as `commit`.
        """
        target, current = self.manifest(to), self.manifest(base)
        live, wanted = {file.name for file in current.files}, {file.name for file in target.files}
        with self.lock(shared=True):  # no vacuum from the look at the files to the commit that names them again
            self.check_present(target)
            return self.commit(
                base=base,
                job=job,
                operation="rollback",
                remove=live - wanted,
                restore=[file for file in target.files if file.name not in live],
                segments=target.segments,
                rows_added=None if rows is None else rows[0],
                rows_removed=None if rows is None else rows[1],
                details={"to": to, "rows": "total" if rows is None else "each"},
                prepare=prepare,
            )

    @contextlib.contextmanager
    def lock(self, *, shared: bool) -> Iterator[None]:
        """Commits hold it shared, a vacuum alone, so that no commit names a file which is being deleted.

        A commit waits for a vacuum to end; a vacuum raises ConflictError while a commit is under way.
        """
        busy = f"{self.memory}: a commit is under way; run the command again when it has ended"
        with self.store.lock(_LOCK, busy=lambda _: ConflictError(busy), shared=shared, wait=shared):
            yield

    def check_present(self, manifest: Manifest) -> None:
        """Raises UsageError if a vacuum has deleted something that `manifest`, of an earlier version, names.

        What the newest version names is never vacuumed: if that is missing it is damage, and found as such.
        """
        latest = self.latest_version()
        if manifest.version == latest:
            return
        if gone := vacuumed(self.store, [manifest], self.read_manifest(latest)).get(manifest.version):
            raise UsageError(
                f"{self.memory}: version {manifest.version} was vacuumed ({gone} is gone); choose a newer one, "
                f"`glimmer history {self.memory}` lists them"
            )

    def _already(self, job: str, base: int, latest: int) -> Manifest:
        for version in range(latest, base, -1):
            if self.read_manifest(version).job == job:
                return self.manifest(version)
        if latest < base:
            raise UsageError(f"version {base} does not exist", where=self.memory, remedy=f"the newest is {latest}")
        other = self.read_manifest(latest)
        raise ConflictError(
            f"{self.memory}: job {other.job} ({other.operation}) made version {latest} while this job worked from "
            f"version {base}; nothing was committed, run the command again"
        )

    def _live_segments(
        self,
        files: Sequence[CatalogFile],
        known: Mapping[str, SegmentEntry],
        new: Mapping[str, SegmentEntry] | Iterable[SealedSegment],
    ) -> dict[str, SegmentEntry]:
        if isinstance(new, Mapping):
            entries = dict(known) | dict(new)
        else:
            entries = dict(known) | {
                sealed.segment: SegmentEntry(
                    rows=sealed.rows, tokens=sealed.tokens, bytes=sealed.bytes, digests_sha256=sealed.digests_sha256
                )
                for sealed in new
            }
        live = sorted({segment for file in files for segment in file.segments})
        unknown = [segment for segment in live if segment not in entries]
        if unknown:
            raise UsageError(f"catalog rows point to segments {unknown[:3]} that were not given", where=self.memory)
        return {segment: entries[segment] for segment in live}

    def _publish(self, manifest: Manifest, current: Manifest) -> bool:
        """One attempt to commit `manifest` on top of `current`; False if another writer was first."""
        before, after = {f.name: f for f in current.files}, {f.name: f for f in manifest.files}
        now = time.time_ns() // 1_000_000
        actions: list[AddAction | RemoveAction] = [
            AddAction(name, file.bytes, {}, now, True, json.dumps({"numRecords": file.rows}))
            for name, file in after.items()
            if name not in before
        ]
        actions += [RemoveAction(name, True, now, file.bytes, {}) for name, file in before.items() if name not in after]
        properties = CommitProperties(
            custom_metadata=dict(manifest.commit_metadata()),
            max_commit_retries=0,
            app_transactions=[Transaction(_APPLICATION, manifest.version)],
        )

        def write(table: DeltaTable) -> None:
            table.create_write_transaction(
                actions,
                "append",
                Schema.from_arrow(CATALOG_SCHEMA),
                commit_properties=properties,
                post_commithook_properties=_NO_HOOKS,
            )

        try:
            self.log.commit(manifest.version, write)
        except GlimmerError:
            # A failure after the log entry was put down is still a commit.
            if not self._is_committed(manifest):
                raise
        if not self._is_committed(manifest):
            return False
        self.log.sync(manifest.version)
        return True

    def _is_committed(self, manifest: Manifest) -> bool:
        if not self.log.has(manifest.version):
            return False
        return self.read_manifest(manifest.version).to_text() == manifest.to_text()

    def _discard(self, written: Sequence[CatalogFile], version: int) -> None:
        """Deletes files of a commit that did not happen; after a crash here vacuum finds what stays behind.

        An interrupt may fall just after the log entry was put down, so the entry is asked first.
        """
        with contextlib.suppress(OSError, DamageError, StorageError):
            entry = self.log.read(version) if self.log.has(version) else b""
            for file in written:
                if file.name.encode() not in entry:
                    self.store.delete(f"{PASSAGES}/{file.name}")


def _checked(job: str) -> str:
    if not check_name(job):
        raise UsageError(f"job id {job!r} is not made of lower-case letters, digits and hyphens (at most 64)")
    return job
