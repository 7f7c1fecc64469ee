"""A refresh, step by step: its base version pinned, its plan made or found in the ledger, its commit.

Whoever runs it holds the job's lock. Until the commit nothing is visible; what a refused or overtaken job made is
deleted again, and what a killed one made is found by the same command, since the job's name is a hash of its inputs and
of its base version.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from ... import ConflictError, GlimmerError, InputError, UsageError
from ...encoders.models import LoadedModel, load_model
from ...storage.ledger import JOBS, Ledger
from ...storage.manifest import Manifest
from ...storage.memory import Memory, commit
from ...storage.segment import SealedSegment, SegmentWriter
from ..encoding.job import Encoding, encode_segment, job_id, plan_listener, planned_rows, segment_id, timed
from ..encoding.plan import PlanSummary, TextWriter, plan
from ..engines import Engine
from ..progress import Progress
from ..sources import Corpus, source_identity
from ..sources.files import read_lines, resolve
from .changes import Changes, Comparison, articles_with, count_articles, files_to_replace, surviving_rows

EXAMPLES: Final = 5
_CHANGES: Final = "changes.safetensors"


@dataclass(frozen=True, kw_only=True)
class RefreshCounts:
    """What a refresh changes.

    Attributes:
        passages_added, passages_removed: passages that are new, and that are gone.
        passages_kept: passages whose row and codes stay; `passages_moved` of them stand at other paragraph ids or
            characters now, and get a new catalog row.
        tokens_added: tokens of the passages that are new: what has to be encoded.
        articles_added, articles_changed, articles_removed, articles_kept: articles that are new, that have other
            passages, that are gone, and all others (their paragraph ids may have moved).
        deleted_unknown: ids to delete that the memory does not have.
    """

    passages_added: int
    passages_removed: int
    passages_kept: int
    passages_moved: int
    tokens_added: int
    articles_added: int
    articles_changed: int
    articles_removed: int
    articles_kept: int
    deleted_unknown: int

    @property
    def nothing(self) -> bool:
        """Whether the memory is up to date already."""
        return not (self.passages_added or self.passages_removed or self.passages_moved)


class RefreshJob:
    """One refresh: its inputs checked, its base version pinned, its name found."""

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
    ) -> None:
        if deleted is not None and not partial:
            raise UsageError("a list of deleted articles goes with a partial feed: add --partial, or leave it out")
        if not sources and deleted is None:
            raise UsageError("no source given")
        self.sources, self.format, self.strict, self.partial = list(map(str, sources)), format, strict, partial
        self.corpus = Corpus(self.sources, format=format, fields=fields, mixed=mixed, may_be_empty=partial)
        self.deleted = None if deleted is None else str(deleted)
        self.directory = Path(memory)
        self.base = Memory.open(self.directory)
        identity = self.base.identity
        depends_on = {
            "sources": self.corpus.identity(),
            "deleted": None if self.deleted is None else source_identity(self.deleted),
            "partial": partial,
            "format": format,
            "strict": strict,
            "base": self.base.version,
            "content": self.base.manifest.content_sha256,
            "identity": self.base.manifest.identity_sha256,
        }
        if fields:
            depends_on["fields"] = dict(fields)
        self.encoding = Encoding.checked(_model(model, self.base), identity, self.directory)
        self.name = job_id("refresh", depends_on)
        self.ledger = Ledger(self.directory, self.name)
        self.rejects = self.directory / JOBS / f"{self.name}.rejected.jsonl"

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
        """The job's plan and changes, from its ledger or made now and written there."""
        path = self.ledger.directory / _CHANGES
        planned = self.ledger.read_plan()
        if planned is not None:
            added = planned["counts"]["passages_added"]
            progress.say(f"going on with job {self.name}: {self.ledger.progress().rows:,} of {added:,} passages done")
            return planned, Changes.load(path, planned["changes_sha256"])
        with self._undone_if_refused(), timed(seconds, "plan"):
            self._drop_segment()  # text of a plan that was cut; the new one may be shorter
            writer = SegmentWriter(self.directory, segment_id(self.name))
            _, summary, changes, counts = self.compare(writer, progress, self.rejects)
            planned = {
                "plan": summary.to_json(),
                "counts": asdict(counts),
                "changes_sha256": changes.save(path),
            }
            self.ledger.write_plan(planned)
        return planned, changes

    def compare(
        self, writer: TextWriter | None, progress: Progress, rejects: Path | None = None
    ) -> tuple[Comparison, PlanSummary, Changes, RefreshCounts]:
        """Plans the sources against the base version and works out what changes."""
        settings = self.base.identity.passages
        comparison = Comparison(self.base, partial=self.partial, examples=EXAMPLES)
        gone = set() if self.deleted is None else _article_ids(self.deleted)
        for line in self.corpus.describe():
            progress.say(line)
        progress.stage("plan", total=None, unit="passages")
        summary = plan(
            sources=self.corpus,
            tokenise=self.encoding.model.passage_tokens,
            window=settings.window,
            writer=writer,
            base=comparison,
            passage_words=settings.words,
            strict=self.strict,
            may_be_empty=bool(gone),
            rejects_path=rejects,
            progress=plan_listener(progress),
        )
        progress.done()
        for line in self.corpus.notes():
            progress.say(line)
        if both := sorted(gone & comparison.met):
            raise InputError(
                f"{self.deleted}: article {both[0]!r} is to be deleted and is in the sources too"
                f"{f' (and {len(both) - 1} more)' if len(both) > 1 else ''}; take it out of one of them"
            )
        changes = comparison.changes(gone)
        articles = count_articles(self.base, changes.dead, pa.array(sorted(comparison.renewed), pa.string()))
        counts = RefreshCounts(
            passages_added=comparison.added,
            passages_removed=changes.removed,
            passages_kept=self.base.passages - changes.removed,
            passages_moved=len(changes.moved),
            tokens_added=summary.tokens - comparison.kept_tokens,
            articles_added=articles.added,
            articles_changed=articles.changed,
            articles_removed=articles.removed,
            articles_kept=articles.kept,
            deleted_unknown=self._unknown(gone),
        )
        return comparison, summary, changes, counts

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
        shutil.rmtree(SegmentWriter(self.directory, segment_id(self.name)).directory, ignore_errors=True)


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


def _article_ids(name: str) -> set[str]:
    """Article ids, one a line, blank lines and blanks around them left out; InputError where a line is not text."""
    found: set[str] = set()
    for file in resolve(name):
        for number, line in read_lines(file):
            try:
                found.add(line.decode().strip())
            except UnicodeDecodeError as error:
                raise InputError(f"{file.name}:{number}: not UTF-8; give one article id a line") from error
    return found
