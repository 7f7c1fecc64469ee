"""How passages become codes: a memory's settings paired with a model, and the encode stage of a job.

`encode` and `refresh` run the stage over Beam; a repair encodes a few passages by itself and shares the pairing.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ... import MismatchError
from ...encoders.builtin_models import name_for_others
from ...encoders.models import LoadedModel
from ...progress import polled
from ...reader.encoder_match import check_encoder
from ...storage.catalog_files import text_rows
from ...storage.codecs import spec_text
from ...storage.identity import Identity
from ...storage.passage import SHARD_ROWS
from ...storage.segment_writer import SealedSegment, SegmentWriter
from ..engines import Engine, run_step
from ..engines.seen_by_workers import memory_for_workers
from ..engines.worker_rates import WorkerFiles
from ..jobs import Job
from ..per_process import Count, PerProcess
from ..planning.planned_text import PartRows
from .shard_graph import EncodeShards, ShardWork, rows_of_group, shard_groups


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
        return cls(model=model.with_window(identity.passages.window), identity=identity)


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
            # Where none are given, they are what the job fits, which is known later.
            ("codec tables", wanted.tables_sha256[:12], found.tables_sha256[:12] if wanted.tables_sha256 else ""),
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
    job: Job, *, encoding: Encoding, rows: int, parts: PartRows | None, code_bytes: int, engine: Engine
) -> SealedSegment:
    """Encodes every planned shard of `job` that its ledger does not list yet, then seals the segment.

    Args:
        job: has planned the passages.
        encoding: model and settings.
        rows: passages planned.
        parts: where they are; None if their text shards are in the segment already.
        code_bytes: bytes of one stored token.
        engine: where the encode step runs.

    Raises what the encoder or the store raises; whatever was finished stays in the ledger.
    """
    identity, window = encoding.identity, encoding.identity.passages.window
    work = ShardWork(
        memory=memory_for_workers(job.store, engine),
        job_id=job.name,
        segment=job.segment.segment,
        model=name_for_others(encoding.model.path),
        fingerprint=identity.encoder.fingerprint,
        codec=spec_text(identity.codec),
        tables_sha256=identity.tables_sha256,
        precision=identity.encoder.precision,
        shapes=tuple((shape[0], shape[1]) for shape in identity.shapes),
        rows=rows,
        parts=parts,
        window=window,
    )

    def write(shards: list[int]) -> None:
        if not shards:
            return
        counts = PerProcess(Count)
        groups = shard_groups(shards, window=window, code_bytes=code_bytes)
        # The count is finer than the ledger, which has whole shards, and knows nothing of other processes.
        with (
            counts as encoded,
            polled(
                job.progress,
                lambda: max(job.ledger.progress().rows, job.resumed + encoded.value),
                job.store.poll_seconds,
            ),
        ):
            step, done = EncodeShards(work, counts), lambda: job.ledger.progress().rows
            job.workers = run_step("Encode", groups, step, engine, done, _worker_files(job, work))

    return job.write_segment("encode", write, rows=rows, window=window, code_bytes=code_bytes)


def _worker_files(job: Job, work: ShardWork) -> WorkerFiles:
    """Where workers note what they have encoded: in the job's ledger, apart from those of an interrupted run."""
    key = f"{job.ledger.key}/workers-{uuid.uuid4().hex}"
    amount = functools.partial(rows_of_group, rows=work.rows)
    return WorkerFiles(place=work.memory, key=key, unit="passages", amount=amount)


def planned_rows(writer: SegmentWriter, shards: int) -> Iterator[pa.Table]:
    """The catalog rows of a planned segment, a table for each shard, in row order."""
    return writer.store.in_order(
        lambda shard: text_rows(writer.open_text(shard), writer.segment, shard * SHARD_ROWS), range(shards)
    )
