"""History: what each version of a memory is, what it changed, and whether it can still be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from ...storage.catalog import Catalog
from ...storage.manifest import Manifest
from ...storage.stores import Place
from ...storage.vacuumed import vacuumed

_STEADY: Final = frozenset({"encode", "refresh"})
"""Operations that leave rows where they are: those of a known segment only die."""


@dataclass(frozen=True, kw_only=True)
class VersionEntry:
    """One version.

    Attributes:
        version, time, operation, job: which, when it was committed (UTC, ISO 8601), by what kind of job and which.
        added, removed: passages that came and went with it.
        passages, tokens, segments: what it holds.
        vacuumed: a vacuum has deleted files of it, so that it can be neither opened nor rolled back to.
    """

    version: int
    time: str
    operation: str
    added: int
    removed: int
    passages: int
    tokens: int
    segments: int
    vacuumed: bool
    job: str

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        return asdict(self)


def history(*, memory: Place) -> list[VersionEntry]:
    """The versions of a memory, newest first.

    Args:
        memory: the memory's directory.

    Raises:
        UsageError: there is no memory.
        DamageError: its catalog is not what was written.
        StorageError: the file system refuses.

    Examples:
        >>> [(entry.version, entry.operation) for entry in glimmer.history(memory="wiki.memory")]
        [(2, 'refresh'), (1, 'encode'), (0, 'create')]
    """
    catalog = Catalog(memory)
    manifests = catalog.history()
    gone = vacuumed(catalog.store, manifests, manifests[0])
    by_version = {manifest.version: manifest for manifest in manifests}
    entries = []
    for manifest in manifests:
        added, removed = _rows(manifest, by_version)
        entries.append(
            VersionEntry(
                version=manifest.version,
                time=manifest.time,
                operation=manifest.operation,
                added=added,
                removed=removed,
                passages=manifest.passages,
                tokens=manifest.tokens,
                segments=len(manifest.segments),
                vacuumed=manifest.version in gone,
                job=manifest.job,
            )
        )
    return entries


def _rows(manifest: Manifest, by_version: Mapping[int, Manifest]) -> tuple[int, int]:
    """Passages added and removed by a version.

    A rollback of an earlier release, or from a version that could not be read, recorded only what the totals differ by.
    Where nothing but encoding and refreshing lies between the two versions, the live rows of each segment say more.
    """
    recorded = manifest.rows_added, manifest.rows_removed
    if manifest.operation != "rollback" or manifest.details.get("rows") == "each":
        return recorded
    to, base = (_shown(by_version[v], by_version) for v in (manifest.details["to"], manifest.version - 1))
    first, last = sorted((to.version, base.version))
    if any(by_version[version].operation not in _STEADY for version in range(first + 1, last + 1)):
        return recorded
    after, before = to.live_rows, base.live_rows
    change = [after.get(name, 0) - before.get(name, 0) for name in after.keys() | before.keys()]
    return sum(rows for rows in change if rows > 0), -sum(rows for rows in change if rows < 0)


def _shown(manifest: Manifest, by_version: Mapping[int, Manifest]) -> Manifest:
    """The version whose content `manifest` has: rollbacks show another's."""
    while manifest.operation == "rollback":
        manifest = by_version[manifest.details["to"]]
    return manifest
