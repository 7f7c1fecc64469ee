"""A refresh, step by step: its base version pinned, its plan made or found in the ledger, its commit.

Whoever runs it holds the job's lock. Until the commit nothing is visible; what a refused or overtaken job made is
deleted again, and what a killed one made is found by the same command, since the job's name is a hash of its inputs and
of its base version.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from ... import ConflictError, GlimmerError, InputError, UsageError
from ...encoders.models import LoadedModel, load_model
from ...progress import Progress
from ...storage.inputs import STDIN
from ...storage.ledger import JOBS, Ledger
from ...storage.manifest import Manifest
from ...storage.memory import Memory, commit
from ...storage.paths import local_path
from ...storage.removal import remove_tree
from ...storage.segment_writer import SealedSegment, SegmentWriter
from ..corpus import Corpus
from ..corpus.content_identity import content_identities
from ..corpus.listing import read_lines, resolve
from ..corpus.plan import PlanSummary, TextWriter, no_article, plan
from ..encoding.encoding_job import Encoding, encode_segment, job_id, plan_listener, planned_rows, segment_id, timed
from ..engines import Engine
from .changes import Changes, Comparison, articles_with, files_to_replace, surviving_rows
from .counts import Compared, RefreshCounts
from .feed import Feed
from .removals import MAX_REMOVED, Removals, check_limit, exceeds, removals, shown_limit

EXAMPLES: Final = 5
_CHANGES: Final = "changes.safetensors"


class RefreshJob:
    """One refresh: its inputs checked, its base version pinned, its name found.

    `max_removed` is no part of the name: what is planned does not depend on it.
    """

    def __init__(
        self,
        sources: Sequence[str],
        memory: str | Path,
        model: str | None = None,
        format: str | None = None,
        strict: bool = False,
        partial: bool = False,
        deleted: str | Path | None = None,
        fields: Mapping[str, str] | None = None,
        mixed: bool = False,
        max_removed: float | int = MAX_REMOVED,
        remove_absent: bool = False,
    ) -> None:
        check_limit(max_removed)
        if deleted is not None and not partial:
            raise UsageError("a list of deleted articles goes with a partial feed: add --partial, or leave it out")
        if remove_absent and partial:
            raise UsageError("of a partial feed no article is absent: leave out --remove-absent, or --partial")
        if not sources and deleted is None:
            raise UsageError("no source given")
        self.sources, self.format, self.strict, self.partial = list(map(str, sources)), format, strict, partial
        if deleted is not None and str(deleted) == STDIN in self.sources:
            raise UsageError("standard input (-) is named twice; name it once")
        self.corpus = Corpus(self.sources, format=format, fields=fields, mixed=mixed, may_be_empty=partial)
        self.deleted = None if deleted is None else _DeletionList(str(deleted))
        self.max_removed, self.remove_absent = max_removed, remove_absent
        self.directory = local_path(memory)
        self.base = Memory.open(self.directory)
        self.encoding = Encoding.checked(_model(model, self.base), self.base.identity, self.directory)
        self._fields = dict(fields or {})

    @cached_property
    def name(self) -> str:
        """The job's id; the sources are read for it."""
        depends_on: dict[str, Any] = {
            "sources": self.corpus.identity(),
            "deleted": None if self.deleted is None else self.deleted.identity(),
            "partial": self.partial,
            "format": self.format,
            "strict": self.strict,
            "base": self.base.version,
            "content": self.base.manifest.content_sha256,
            "identity": self.base.manifest.identity_sha256,
        }
        if self._fields:
            depends_on["fields"] = self._fields
        if self.remove_absent:
            depends_on["remove_absent"] = True
        return job_id("refresh", depends_on)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.directory, self.name)

    @property
    def rejects(self) -> Path:
        """The dead-letter file."""
        return self.directory / JOBS / f"{self.name}.rejected.jsonl"

    def committed(self) -> Manifest | None:
        """This job's own commit, if another process made it before this one got the lock; None if it is to do.

        From here on nobody else can commit this job, so its segment may be dropped and written again. Raises
        ConflictError when the base is not the newest version any more.
        """
        latest = self.base.catalog.latest_version()
        for version in range(latest, self.base.version, -1):
            if (found := self.base.catalog.read_manifest(version)).job == self.name:
                return found
        if latest != self.base.version:
            self._forget()
            raise ConflictError(f"{self.directory}: version {latest} has just been made by another job; run again")
        return None

    def run(self, engine: Engine, progress: Progress, seconds: dict[str, float]) -> tuple[Manifest, dict[str, Any]]:
        """Plan, encode and commit, as far as not done; returns the base's manifest when nothing changed."""
        planned, changes = self.planned(progress, seconds)
        counts = RefreshCounts(**planned["counts"])
        if counts.nothing:
            return self.base.manifest, planned
        sealed = None
        if counts.passages_added:
            with timed(seconds, "encode"):
                sealed = encode_segment(
                    memory=self.directory,
                    job=self.name,
                    encoding=self.encoding,
                    rows=counts.passages_added,
                    code_bytes=self.base.codec.code_bytes,
                    engine=engine,
                    progress=progress,
                )
        with timed(seconds, "commit"):
            return self.commit(counts, changes, planned, sealed, progress), planned

    def planned(self, progress: Progress, seconds: dict[str, float]) -> tuple[dict[str, Any], Changes]:
        """The job's plan and changes, from its ledger or made now and written there.

        Raises InputError when the refresh would remove too many articles. A plan made now is forgotten then; one that
        was found stays, and with it what was encoded.
        """
        path = self.ledger.directory / _CHANGES
        planned = self.ledger.read_plan()
        if planned is not None:
            if refusal := self.refusal(RefreshCounts(**planned["counts"]), planned.get("removed", [])):
                raise InputError(refusal)
            added = planned["counts"]["passages_added"]
            progress.say(f"resuming job {self.name}: {self.ledger.progress().rows:,} of {added:,} passages done")
            return planned, Changes.load(path, planned["changes_sha256"])
        with self._undone_if_refused(), timed(seconds, "plan"):
            self._drop_segment()  # text of a plan that was interrupted; the new one may be shorter
            writer = SegmentWriter(self.directory, segment_id(self.name))
            found = self.compare(writer, progress, self.rejects)
            if refusal := self.refusal(found.counts, found.removed):
                raise InputError(refusal)
            planned = {
                "plan": found.plan.to_json(),
                "counts": asdict(found.counts),
                "changes_sha256": found.changes.save(path),
                "kept_rejected": found.kept_rejected,
                "kept_absent": found.kept_absent,
                "removed": found.removed,
            }
            self.ledger.write_plan(planned)
        return planned, found.changes

    def compare(self, writer: TextWriter | None, progress: Progress, rejects: Path | None = None) -> Compared:
        """Plans the sources against the base version and works out what changes."""
        settings = self.base.identity.passages
        comparison = Comparison(self.base, partial=self.partial, examples=EXAMPLES)
        feed = Feed(self.corpus) if self.partial else None
        listed = set() if self.deleted is None else self.deleted.ids()
        for line in self.corpus.describe():
            progress.say(line)
        progress.stage("plan", total=None, unit="passages")
        summary = plan(
            sources=self.corpus if feed is None else feed,
            tokenise=self.encoding.model.passage_tokens,
            window=settings.window,
            writer=writer,
            base=comparison,
            passage_words=settings.words,
            strict=self.strict,
            may_be_empty=self.partial,
            rejects_path=rejects,
            progress=plan_listener(progress),
        )
        progress.done()
        self.corpus.check_unchanged()
        for line in self.corpus.notes():
            progress.say(line)
        if both := sorted(listed & comparison.met):
            listing = self.deleted.name if self.deleted else ""
            raise InputError(
                f"{listing}: article {both[0]!r} is to be deleted and is in the sources too"
                f"{f' (and {len(both) - 1} more)' if len(both) > 1 else ''}; take it out of one of them"
            )
        emptied = set() if feed is None else feed.emptied
        if not summary.passages and summary.rejected and not (listed or emptied):
            raise no_article(self.sources, summary.rejected, rejects)
        fate = removals(comparison, listed=listed, emptied=emptied, remove_absent=self.remove_absent)
        return Compared(
            comparison=comparison,
            plan=summary,
            changes=fate.changes,
            counts=self._counts(comparison, fate, summary, listed | emptied, 0 if feed is None else feed.superseded),
            kept_rejected=_examples(fate.kept_rejected),
            kept_absent=_examples(fate.kept_absent),
            removed=_examples(fate.unasked),
        )

    def _counts(
        self, comparison: Comparison, fate: Removals, summary: PlanSummary, deleted: set[str], superseded: int
    ) -> RefreshCounts:
        return RefreshCounts(
            passages_added=comparison.added,
            passages_removed=fate.changes.removed,
            passages_kept=self.base.passages - fate.changes.removed,
            passages_moved=len(fate.changes.moved),
            tokens_added=summary.tokens - comparison.kept_tokens,
            articles_added=fate.articles.added,
            articles_changed=fate.articles.changed,
            articles_removed=fate.articles.removed,
            articles_removed_listed=len(fate.listed),
            articles_removed_empty=len(fate.unasked) if self.partial else 0,
            articles_kept=fate.articles.kept,
            articles_kept_rejected=len(fate.kept_rejected),
            articles_kept_absent=len(fate.kept_absent),
            deleted_unknown=self._unknown(deleted),
            records_unidentified=comparison.unidentified,
            records_superseded=superseded,
        )

    def refusal(self, counts: RefreshCounts, examples: Sequence[str]) -> str | None:
        """Why the refresh may not go on: it removes more articles than may go unasked. None if it may.

        `examples` are ids of some that would go. Articles of the deletion list are asked for.
        """
        unasked, articles = counts.articles_removed - counts.articles_removed_listed, self.base.articles
        if not exceeds(unasked, articles, self.max_removed):
            return None
        why = "whose text is empty in the feed" if self.partial else "which the sources do not hold"
        more = " …" if unasked > len(examples) else ""
        return (
            f"{self.directory}: {unasked:,} of {articles:,} articles ({100 * unasked / articles:.3g} %), {why}, would "
            f"be removed ({', '.join(examples)}{more}), more than {shown_limit(self.max_removed)}, so nothing was "
            f"changed; if they are to go, run it again with --max-removed {unasked}"
        )

    def _unknown(self, gone: set[str]) -> int:
        """How many of the articles to delete the memory does not have."""
        if not gone:
            return 0
        return len(gone) - len(articles_with(self.base, None, among=pa.array(sorted(gone), pa.string())))

    def commit(
        self,
        counts: RefreshCounts,
        changes: Changes,
        planned: Mapping[str, Any],
        sealed: SealedSegment | None,
        progress: Progress,
    ) -> Manifest:
        """Makes the next version; after a conflict removes what this job made, which no later job can use."""
        replaced = files_to_replace(self.base, changes, counts.passages_added)
        fresh = planned_rows(SegmentWriter(self.directory, segment_id(self.name)), planned["plan"]["shards"])
        rewritten = sum(file.rows for file in replaced) - counts.passages_removed
        progress.stage("commit", total=rewritten + counts.passages_added, unit="catalog rows")
        try:
            manifest = commit(
                self.directory,
                base=self.base.version,
                job=self.name,
                operation="refresh",
                add=_counted(itertools.chain(surviving_rows(self.base, changes, replaced), fresh), progress),
                remove=[file.name for file in replaced],
                segments=[] if sealed is None else [sealed],
                rows_added=counts.passages_added,
                rows_removed=counts.passages_removed,
                details={
                    "plan": planned["plan"],
                    "counts": asdict(counts),
                    "bytes_written": 0 if sealed is None else sealed.bytes,
                    "code_bytes_written": sum(record.codes_bytes for record in self.ledger.records().values()),
                    "sources": self.sources,
                    "partial": self.partial,
                    "kept_rejected": planned.get("kept_rejected", []),
                    "kept_absent": planned.get("kept_absent", []),
                },
            )
        except ConflictError:
            self._forget()
            raise
        progress.done()
        return manifest

    @contextlib.contextmanager
    def _undone_if_refused(self) -> Iterator[None]:
        try:
            yield
        except GlimmerError:
            self._forget()
            raise

    def _forget(self) -> None:
        """Deletes what the job made so far; only while it holds the lock and is not in the history."""
        self._drop_segment()
        self.ledger.clear()

    def _drop_segment(self) -> None:
        remove_tree(SegmentWriter(self.directory, segment_id(self.name)).directory, within=self.directory)


def _model(name: str | None, base: Memory) -> LoadedModel:
    """The model asked for, else the one that the memory names."""
    encoder = base.identity.encoder
    try:
        return load_model(name if name is not None else encoder.source)
    except UsageError as error:
        if name is not None:
            raise
        raise UsageError(
            f"{base.directory} was made by the encoder {encoder.name} from {encoder.source}, which is not there any "
            f"more; give it with --model"
        ) from error


def _counted(tables: Iterable[pa.Table], progress: Progress) -> Iterator[pa.Table]:
    """`tables`, telling `progress` how many rows have gone by."""
    rows = 0
    for table in tables:
        yield table
        rows += table.num_rows
        progress.at(rows)


class _DeletionList:
    """A file of article ids, one a line; a stream is copied once, when this is made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._files = resolve(name)

    def identity(self) -> dict[str, Any]:
        """What the job's id needs to know of it; JSON-able."""
        return {"kind": "files", "files": content_identities(self._files)}

    def ids(self) -> set[str]:
        """The ids, blank lines and blanks around them left out; InputError where a line is not text."""
        found: set[str] = set()
        for file in self._files:
            for number, line in read_lines(file):
                try:
                    found.add(line.decode().strip())
                except UnicodeDecodeError as error:
                    raise InputError(f"{file.name}:{number}: not UTF-8; give one article id a line") from error
        return found


def _examples(ids: pa.Array) -> list[str]:
    """The first few of `ids`, in the order of the payload."""
    found: list[str] = ids.slice(0, EXAMPLES).to_pylist()
    return found
