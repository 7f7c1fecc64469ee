"""What an encoding job is made of, shared by `encode`, `refresh` and `repair`: its id, its settings, its encode stage.

A job's id is a hash of everything its result depends on: sources, settings, encoder and base version. The same
command therefore finds its own ledger again and resumes; any other gets another id and segment.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa

from ... import MismatchError
from ...encoders.models import LoadedModel
from ...progress import Progress, polled
from ...reader.encoder_match import check_encoder
from ...storage.catalog_files import passage_rows
from ...storage.codecs import spec_text
from ...storage.identity import Identity
from ...storage.ledger import Ledger
from ...storage.passage import SHARD_ROWS
from ...storage.segment_writer import SealedSegment, SegmentWriter
from ..corpus import Corpus
from ..corpus.plan import PlanProgress
from ..engines import Engine, run_graph
from ..per_process import Count, PerProcess
from .shard_graph import ShardWork, encode_graph, shard_groups, with_window


def job_id(kind: str, depends_on: Mapping[str, Any]) -> str:
    """`<kind>-<16 hex>`: the same for the same JSON-able dependencies."""
    return f"{kind}-{hashlib.sha256(_canonical(depends_on)).hexdigest()[:16]}"


def identified(corpus: Corpus, progress: Progress) -> list[dict[str, Any]]:
    """The content identity of a corpus, which is read for it; `progress` is told how much of it."""
    megabytes = corpus.bytes / 1e6
    progress.stage("identify sources", total=megabytes, unit="MB")
    identity = corpus.identity(lambda share: progress.at(megabytes * share))
    progress.done()
    return identity


def sources_sha256(corpus: Corpus) -> str:
    """SHA-256 of a corpus's content identity, by which a memory says what it was made from."""
    return hashlib.sha256(_canonical(corpus.identity())).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def segment_id(job: str) -> str:
    """The UUID of the segment that `job` writes; a resumed job finds the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"glimmer:{job}"))


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How passages become codes in one memory: what `memory.json` fixes, and the model that fits it."""

    model: LoadedModel
    identity: Identity

    @classmethod
    def checked(cls, model: LoadedModel, identity: Identity, where: str | Path) -> Encoding:
        """Pairs a memory with a model, which gets the memory's window.

        Raises MismatchError unless the model has the fingerprint the memory was made with.
        """
        check_encoder(model, identity, where)
        return cls(model=with_window(model, identity.passages.window), identity=identity)


def check_identity(wanted: Identity, found: Identity, where: str | Path) -> None:
    """MismatchError naming what differs, unless two identities agree in all but when they were made.

    Encoders are compared by fingerprint: what a model is called, or where it lies, does not matter.
    """
    differing = [
        f"{name} {there!r}, not {here!r}"
        for name, here, there in (
            ("encoder fingerprint", wanted.encoder.fingerprint[:12], found.encoder.fingerprint[:12]),
            ("precision", wanted.encoder.precision, found.encoder.precision),
            ("codec", spec_text(wanted.codec), spec_text(found.codec)),
            ("passage words", wanted.passages.words, found.passages.words),
            ("window", wanted.passages.window, found.passages.window),
            ("shapes", wanted.shapes, found.shapes),
        )
        if here != there
    ]
    if differing:
        raise MismatchError(
            f"{where} is a memory with {'; '.join(differing)}; use its settings, or name another directory"
        )


def encode_segment(
    *,
    memory: Path,
    job: str,
    encoding: Encoding,
    rows: int,
    code_bytes: int,
    engine: Engine,
    progress: Progress,
) -> SealedSegment:
    """Encodes every planned shard of a job that its ledger does not list yet, then seals the segment.

    Args:
        memory: the memory's directory; the job's text shards are in its segment already.
        rows: passages planned.
        code_bytes: bytes of one stored token.

    Raises what the encoder or the store raises; whatever was finished stays in the ledger.
    """
    identity, ledger = encoding.identity, Ledger(memory, job)
    window = identity.passages.window
    work = ShardWork(
        memory=str(memory),
        job_id=job,
        segment=segment_id(job),
        model=str(encoding.model.path),
        fingerprint=identity.encoder.fingerprint,
        codec=spec_text(identity.codec),
        tables_sha256=identity.tables_sha256,
        precision=identity.encoder.precision,
        shapes=tuple((shape[0], shape[1]) for shape in identity.shapes),
        rows=rows,
        window=window,
    )
    writer = SegmentWriter(memory, work.segment)
    writer.create_arrays(rows, window, code_bytes)
    shards = -(-rows // SHARD_ROWS)
    done = ledger.records()
    left = [shard for shard in range(shards) if shard not in done]
    before = ledger.progress().rows
    progress.stage("encode", total=rows, unit="passages", start=before)
    if left:
        groups = shard_groups(left, window=window, code_bytes=code_bytes)

        counts = PerProcess(Count)

        def build(pipeline: beam.Pipeline) -> None:
            encode_graph(pipeline, work=work, groups=groups, encoded=counts)

        # The count is finer than the ledger, which has whole shards, and knows nothing of other processes.
        with counts as encoded, polled(progress, lambda: max(ledger.progress().rows, before + encoded.value)):
            run_graph(build, engine)
    progress.done()
    return writer.seal(ledger.records().values())


def planned_rows(writer: SegmentWriter, shards: int) -> Iterator[pa.Table]:
    """The catalog rows of a planned segment, a table for each shard, in row order."""
    for shard in range(shards):
        yield passage_rows(writer.read_text(shard), writer.segment, shard * SHARD_ROWS)


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Records the wall time of the block in `seconds[stage]`, unless it raises."""
    begun = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - begun


def plan_listener(progress: Progress) -> Callable[[PlanProgress], None]:
    """Adapts a plan's reports to a progress listener: percent of source bytes read, passages as the unit."""

    def listen(at: PlanProgress) -> None:
        total = at.passages / at.share if at.share > 0 else None
        progress.at(at.passages, total=total)

    return listen
