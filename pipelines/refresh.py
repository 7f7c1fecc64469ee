"""The refresh job: a memory brought up to date with a corpus that changed, at the cost of the change.

    plan     the new corpus is cut as ever, range by range; a passage that the base version has is kept, whatever its
             row; the others become the rows of a new segment; what is no longer there is noted
    encode   the new segment's shards, as in an encode job; none if nothing is new
    commit   one catalog commit: the rows that go and the rows that come, together

The result equals a fresh encode of the new corpus: same passages, same ids, same bytes of codes. A job's id follows
from its sources, settings and base version: the same command resumes it, and after a rollback it is another job and
runs again. The plan is kept in the ledger (a bit a row and the rows that moved), so a resumed job need not read the
corpus twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..progress import Progress, Quiet
from ..reader.serving.retrieval_index import DIRECTORY, open_index
from ..storage.ledger import JOBS, Ledger
from ..storage.manifest import Manifest
from ..storage.memory import Memory
from ..storage.stores import Place
from .corpus.listing import Sources
from .corpus.ranges import RANGE_BYTES
from .engines import Engine
from .engines.worker_rates import WorkerRate
from .planning.plan_stage import identify_sources
from .planning.plan_summary import PlanSummary
from .refreshing.counts import RefreshCounts
from .refreshing.range_comparison import EXAMPLES
from .refreshing.refresh_inputs import RefreshInputs
from .refreshing.refresh_job import RefreshJob
from .refreshing.refresh_plan import compare, refusal
from .refreshing.removals import MAX_REMOVED
from .refreshing.row_numbers import first_positions


@dataclass(frozen=True, kw_only=True)
class Example:
    """A passage to show: where it is from and how it reads."""

    article_id: str
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class RefreshPlan:
    """What a refresh would do.

    Attributes:
        memory, base: which memory, and the version it would start from.
        counts: what would change.
        plan: counts of the sources: articles, passages, tokens and rejected records.
        added, removed: the first few passages that would come and go.
        kept_rejected, kept_absent: ids of the first few articles that would stay because their records were rejected,
            and because some rejected record may be theirs; `counts` has how many.
        refused: why the refresh would be refused, None if it would not: it removes too many articles.
    """

    memory: Path | str
    base: int
    counts: RefreshCounts
    plan: PlanSummary
    added: list[Example]
    removed: list[Example]
    kept_rejected: list[str]
    kept_absent: list[str]
    refused: str | None

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        return asdict(self) | {"memory": str(self.memory), "plan": _without_lengths(self.plan)}


@dataclass(frozen=True, kw_only=True)
class RefreshResult:
    """What a refresh did.

    Attributes:
        memory, base, version, job: where, from which version, to which, by which job. `version` is `base` when nothing
            had changed.
        counts: what changed.
        plan: counts of the sources: articles, passages, tokens and rejected records.
        bytes_written: the new segment and the new catalog files; `code_bytes_written` of these are codes.
        kept_rejected, kept_absent: ids of the first few articles that stayed because their records were rejected, and
            because some rejected record may be theirs; `counts` has how many.
        rejects: the dead-letter file, None when nothing was rejected.
        seconds: wall time of each stage, in seconds.
        workers: what each worker process encoded; empty where one process did it all.
    """

    memory: Path | str
    base: int
    version: int
    job: str
    counts: RefreshCounts
    plan: PlanSummary
    bytes_written: int
    code_bytes_written: int
    kept_rejected: list[str]
    kept_absent: list[str]
    rejects: Path | str | None
    seconds: dict[str, float] = field(default_factory=dict)
    workers: list[WorkerRate] = field(default_factory=list)

    @property
    def nothing_changed(self) -> bool:
        """Whether the memory was up to date, so that no version was made."""
        return self.version == self.base

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        record = asdict(self) | {"memory": str(self.memory), "rejects": self.rejects and str(self.rejects)}
        return record | {"nothing_changed": self.nothing_changed, "plan": _without_lengths(self.plan)}


def refresh(
    *,
    sources: Sources,
    memory: Place,
    model: str | None = None,
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    mixed: bool = False,
    strict: bool = False,
    partial: bool = False,
    deleted: str | Path | None = None,
    max_removed: float | int = MAX_REMOVED,
    remove_absent: bool = False,
    index: bool | None = None,
    engine: Engine | None = None,
    range_bytes: int = RANGE_BYTES,
    progress: Progress | None = None,
) -> RefreshResult:
    """Brings a memory up to date with `sources`, or resumes a refresh that was interrupted.

    An article whose record is rejected stays as it is, if no other record of it can be used.

    Args:
        sources: one or several of: paths, directories, globs, fsspec URLs, `tfds:` names. They give the whole corpus
            as it is now, or, with `partial`, only the articles that are new or changed; those replace what the memory
            has of them.
        memory: the memory's directory.
        model: a model directory or a built-in name; None takes the one that memory.json names.
        format: the sources' format; None tells it from their content.
        fields: role (`id`, `title`, `text`) -> the field that holds it; None takes the known names.
        mixed: files of one source may have different formats.
        strict: stop at the first record that cannot be used instead of setting it aside.
        partial: articles that the sources do not hold stay. The last record of an article decides, and one whose text
            is empty removes the article.
        deleted: with `partial`, a file of ids of articles to drop, one a line.
        max_removed: how many articles may go that `deleted` does not name: a number (int), or a share of the memory's
            articles (float, 0.0 to 1.0). A refresh that would remove more is refused.
        remove_absent: articles that the sources do not hold go even if some rejected record does not tell whose it is;
            otherwise they stay then.
        index: build the new version's first-stage index; None builds it if the base version has one.
        engine: where the Beam graph runs; None runs it in this process.
        range_bytes: sources are planned in ranges of about so many bytes, which share the engine's workers. The result
            is the same whatever it is.
        progress: progress callback.

    Raises:
        UsageError: there is no memory.
        InputError: sources that cannot be used, or a refresh that would remove too many articles.
        MismatchError: the model's memory encoder is another.
        ConflictError: another job changed the memory first or runs this one; run it again then.
        DamageError: the memory is not whole.
        StorageError: the file system refuses.

    The newest version stays what it was then; what was encoded is kept for a next try, except after a conflict.

    Examples:
        >>> glimmer.refresh(sources=["changed.jsonl"], memory="wiki.memory").counts.articles_changed
        1
    """
    progress = progress or Quiet()
    inputs = RefreshInputs.open(
        sources=sources,
        memory=memory,
        model=model,
        format=format,
        fields=fields,
        mixed=mixed,
        strict=strict,
        partial=partial,
        deleted=deleted,
        max_removed=max_removed,
        remove_absent=remove_absent,
        range_bytes=range_bytes,
    )
    base = inputs.base
    identify_sources(inputs.corpus, progress)
    _clear_finished(base)
    refreshing = RefreshJob(inputs, progress)
    manifest, job = refreshing.run(engine or Engine()), refreshing.job
    planned = refreshing.planned
    changed = manifest.version != base.version
    if index or (index is None and changed and base.store.exists(f"{base.index_key}/{DIRECTORY}")):
        refreshed = Memory.open(base.store, manifest.version)
        if refreshed.passages:
            with job.timed("index"):
                open_index(refreshed, progress=progress)
    return RefreshResult(
        memory=base.location,
        base=base.version,
        version=manifest.version,
        job=job.name,
        counts=RefreshCounts(**planned["counts"]),
        plan=PlanSummary.from_json(planned["plan"]),
        bytes_written=int(manifest.details["bytes_written"]) + _catalog_bytes(manifest, base) if changed else 0,
        code_bytes_written=int(manifest.details["code_bytes_written"]) if changed else 0,
        kept_rejected=planned.get("kept_rejected", []),
        kept_absent=planned.get("kept_absent", []),
        rejects=job.rejects,
        seconds=job.seconds,
        workers=job.workers,
    )


def refresh_dry_run(
    *,
    sources: Sources,
    memory: Place,
    model: str | None = None,
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    mixed: bool = False,
    strict: bool = False,
    partial: bool = False,
    deleted: str | Path | None = None,
    max_removed: float | int = MAX_REMOVED,
    remove_absent: bool = False,
    progress: Progress | None = None,
) -> RefreshPlan:
    """What `refresh` with the same arguments would change; writes nothing.

    Args:
        sources, memory, model, format, fields, mixed, strict, partial, deleted, max_removed, remove_absent, progress:
            as `refresh` takes them.

    Raises:
        GlimmerError: as `refresh` does, but for the refusal to remove so many articles, which is in the result.

    Examples:
        >>> glimmer.refresh_dry_run(sources=["changed.jsonl"], memory="wiki.memory").counts.articles_changed
        1
    """
    inputs = RefreshInputs.open(
        sources=sources,
        memory=memory,
        model=model,
        format=format,
        fields=fields,
        mixed=mixed,
        strict=strict,
        partial=partial,
        deleted=deleted,
        max_removed=max_removed,
        remove_absent=remove_absent,
    )
    base = inputs.base
    found = compare(inputs, progress or Quiet())
    return RefreshPlan(
        memory=base.location,
        base=base.version,
        counts=found.counts,
        plan=found.plan,
        added=[Example(article_id=a, title=t, text=x) for a, t, x in found.comparison.added_examples],
        removed=[
            Example(article_id=passage.article_id, title=passage.title, text=passage.text)
            for passage in base.texts(first_positions(base, found.changes.dead, EXAMPLES))
        ],
        kept_rejected=found.kept_rejected,
        kept_absent=found.kept_absent,
        refused=refusal(inputs, found.counts, found.removed),
    )


def _clear_finished(base: Memory) -> None:
    """Clears ledgers of refreshes that are in the history: a crash came between their commit and the last step."""
    left = [entry.name for entry in base.store.entries(JOBS) if entry.kind == "directory"]
    if left:
        done = {manifest.job for manifest in base.history()}
        for name in left:
            if name in done:
                Ledger(base.store, name).clear()


def _catalog_bytes(manifest: Manifest, base: Memory) -> int:
    known = {file.name for file in base.manifest.files}
    return sum(file.bytes for file in manifest.files if file.name not in known)


def _without_lengths(summary: PlanSummary) -> dict[str, Any]:
    return {name: value for name, value in summary.to_json().items() if name != "lengths"}
