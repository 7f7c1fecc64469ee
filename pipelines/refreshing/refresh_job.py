"""A refresh on the skeleton of jobs: planned against its base version, new passages encoded, one commit."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

import pyarrow as pa

from ... import InputError
from ...progress import Progress
from ...storage.manifest import Manifest
from ...storage.segment_writer import SealedSegment
from ..encoding.encoding_job import encode_segment, planned_rows
from ..engines import Engine
from ..jobs import Job
from ..planning.plan_stage import PlanPlace
from ..planning.planned_text import PartRows
from .changes import Changes, files_to_replace, surviving_rows
from .counts import RefreshCounts
from .refresh_inputs import RefreshInputs
from .refresh_plan import compare, refusal

_CHANGES: Final = "changes.safetensors"


class RefreshJob:
    """One refresh.

    Attributes:
        job: its id, lock and ledger.
        planned: what was planned, JSON-able, once it has run: counts of sources and changes, and examples.
    """

    def __init__(self, inputs: RefreshInputs, progress: Progress | None = None) -> None:
        self._inputs, self._base = inputs, inputs.base
        self.job = Job(self._base.store, "refresh", inputs.depends_on(), base=self._base.version, progress=progress)
        self.planned: Mapping[str, Any] = {}

    def run(self, engine: Engine) -> Manifest:
        """The new version's manifest, or the base's when nothing changed; raises as `refresh` does."""
        manifest = self.job.run(lambda: self._work(engine))
        self.planned = self.planned or manifest.details  # what another process planned
        return manifest

    def _work(self, engine: Engine) -> Manifest:
        """Plan, encode and commit, as far as not done."""
        self.planned = planned = self.job.plan(lambda: self._plan(engine))
        counts = RefreshCounts(**planned["counts"])
        # A plan that was found is kept, and what was encoded with it: a higher limit resumes it.
        if (why := refusal(self._inputs, counts, planned["removed"])) is not None:
            raise InputError(why)
        if counts.nothing:
            return self._base.manifest
        changes = Changes.load(self.job.store, self._changes_key, planned["changes_sha256"])
        sealed = None
        if counts.passages_added:
            sealed = encode_segment(
                self.job,
                encoding=self._inputs.encoding,
                rows=counts.passages_added,
                parts=PartRows.from_json(planned.get("text")),
                code_bytes=self._base.codec.code_bytes,
                engine=engine,
            )
        return self._commit(counts, changes, planned, sealed)

    @property
    def _changes_key(self) -> str:
        return f"{self.job.ledger.key}/{_CHANGES}"

    def _plan(self, engine: Engine) -> dict[str, Any]:
        with self.job.timed("plan"), self.job.reject_file() as rejects:
            place = PlanPlace(
                store=self.job.store,
                job_key=self.job.ledger.key,
                engine=engine,
                range_bytes=self._inputs.range_bytes,
            )
            found = compare(self._inputs, self.job.progress, place=place, rejects=rejects)
            if (why := refusal(self._inputs, found.counts, found.removed)) is not None:
                raise InputError(why)
            return {
                "rows": found.counts.passages_added,
                "plan": found.plan.to_json(),
                "text": found.text.to_json(),
                "counts": asdict(found.counts),
                "changes_sha256": found.changes.save(self.job.store, self._changes_key),
                "kept_rejected": found.kept_rejected,
                "kept_absent": found.kept_absent,
                "removed": found.removed,
            }

    def _commit(
        self, counts: RefreshCounts, changes: Changes, planned: Mapping[str, Any], sealed: SealedSegment | None
    ) -> Manifest:
        job, base = self.job, self._base
        replaced = files_to_replace(base, changes, counts.passages_added)
        fresh = planned_rows(job.segment, planned["plan"]["shards"])
        rewritten = sum(file.rows for file in replaced) - counts.passages_removed
        job.progress.stage("commit", total=rewritten + counts.passages_added, unit="catalog rows")
        manifest = job.commit(
            add=_counted(itertools.chain(surviving_rows(base, changes, replaced), fresh), job.progress),
            remove=[file.name for file in replaced],
            segment=sealed,
            rows_added=counts.passages_added,
            rows_removed=counts.passages_removed,
            details={
                "plan": planned["plan"],
                "counts": asdict(counts),
                "bytes_written": 0 if sealed is None else sealed.bytes,
                "code_bytes_written": job.code_bytes_written,
                "sources": self._inputs.sources,
                "partial": self._inputs.partial,
                "kept_rejected": planned["kept_rejected"],
                "kept_absent": planned["kept_absent"],
            },
        )
        job.progress.done()
        return manifest


def _counted(tables: Iterable[pa.Table], progress: Progress) -> Iterator[pa.Table]:
    """`tables`, telling `progress` how many rows have gone by."""
    rows = 0
    for table in tables:
        yield table
        rows += table.num_rows
        progress.at(rows)
