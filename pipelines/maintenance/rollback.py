"""Rollback: a memory shows an earlier version again, as a new version; nothing is lost, so it can be undone too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ... import UsageError
from ...progress import Progress
from ...reader.serving.retrieval_index import index_new_version
from ...storage.catalog import Catalog
from ...storage.manifest import Manifest
from ...storage.memory import Memory
from ...storage.memory import rollback as commit_rollback
from ...storage.stores import Place, open_store
from ...storage.vacuumed import PASSAGES
from ..jobs import job_id


@dataclass(frozen=True, kw_only=True)
class RollbackResult:
    """What a rollback made.

    Attributes:
        memory, version, job: where, which new version, by which job.
        to: the version whose content it shows.
        passages, tokens: what it holds.
        nothing_to_do: the newest version, which is `version` then, showed that content already.
    """

    memory: Path | str
    version: int
    to: int
    passages: int
    tokens: int
    job: str
    nothing_to_do: bool = False

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        return asdict(self) | {"memory": str(self.memory)}


def rollback(*, memory: Place, to: int, index: bool | None = None, progress: Progress | None = None) -> RollbackResult:
    """Makes a new version of `memory` that holds exactly what version `to` held.

    Args:
        memory: the memory's directory.
        to: which version to show again.
        index: give the new version its first-stage index; None does if `to` or the newest version has one.
        progress: called while an index is built.

    Raises:
        UsageError: the version does not exist, has been vacuumed, or is the newest.
        DamageError: version `to` is not whole.
        ConflictError: another job commits meanwhile.

    Examples:
        >>> glimmer.rollback(memory="wiki.memory", to=1).version
        3
    """
    store = open_store(memory)
    directory, catalog = store.location, Catalog(store)
    current = catalog.manifest()
    target = catalog.manifest(to)
    if target.content_sha256 == current.content_sha256:
        if to == current.version:
            raise UsageError(
                f"version {to} is the newest version",
                where=directory,
                remedy=f"`glimmer history {directory}` lists the others",
            )
        return _result(directory, current, to, nothing_to_do=True)
    there = set(store.names(PASSAGES))
    missing = [file.name for file in target.files if file.name not in there]
    if missing:
        raise UsageError(f"{directory}: version {to} has been vacuumed ({missing[0]} is gone); choose a newer one")
    Memory.open(store, to)  # looks that its segments are there, whole in size
    depends_on = {"to": target.content_sha256, "base": current.version, "content": current.content_sha256}
    manifest = commit_rollback(store, to=to, base=current.version, job=job_id("rollback", depends_on))
    index_new_version(store, manifest.version, before=[to, current.version], wanted=index, progress=progress)
    return _result(directory, manifest, to, nothing_to_do=False)


def _result(directory: Path | str, manifest: Manifest, to: int, *, nothing_to_do: bool) -> RollbackResult:
    return RollbackResult(
        memory=directory,
        version=manifest.version,
        to=to,
        passages=manifest.passages,
        tokens=manifest.tokens,
        job=manifest.job,
        nothing_to_do=nothing_to_do,
    )
