"""The encode step: planned passages in; text shards, Zarr shards and ledger entries out, on every engine the same.

Its elements are groups of shard numbers. A worker encodes the passages of a few shards together, so that the last,
partly filled batch of every length bucket is paid once a group; the device works on one group while the previous one is
compressed and written. A shard counts as done only when its ledger entry exists, so a repeated or retried shard costs
time and nothing else.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import numpy.typing as npt

from ... import MismatchError
from ...encoders.compilation import enable_compilation_cache
from ...encoders.memory_encoder import MemoryEncoder
from ...encoders.models import load_model
from ...storage.codecs import Codec, codec_from_spec, spec_text
from ...storage.identity import read_identity
from ...storage.ledger import Ledger
from ...storage.memory import read_tables
from ...storage.passage import SHARD_ROWS, Passage
from ...storage.segment_writer import SegmentWriter
from ..engines.seen_by_workers import check_model
from ..per_process import Count, PerProcess
from ..planning.planned_text import PartRows, PlannedText
from .finite_codes import refuse_non_finite

GROUP_BYTES = 1 << 30
MOST_SHARDS_IN_A_GROUP = 4


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """All a worker needs to encode shards of one job, small enough to ship to it.

    `rows` and `window` give the segment's shape, `parts` where its passages are planned (None: their text shards are in
    the segment), `shapes` the encoder's fixed (rows, length) batches. A worker refuses
    a model that has not the `fingerprint`, and a memory whose codec is not `codec`, as a command line has it, with
    tables of the digest `tables_sha256`.
    """

    memory: str
    job_id: str
    segment: str
    model: str
    fingerprint: str
    codec: str
    tables_sha256: str
    precision: str
    shapes: tuple[tuple[int, int], ...]
    rows: int
    parts: PartRows | None
    window: int


def shard_groups(shards: Sequence[int], *, window: int, code_bytes: int) -> list[tuple[int, ...]]:
    """Consecutive groups of up to four shards, fewer where four would hold over a gigabyte of codes in memory."""
    size = max(1, min(MOST_SHARDS_IN_A_GROUP, GROUP_BYTES // (SHARD_ROWS * window * code_bytes)))
    return [tuple(shards[at : at + size]) for at in range(0, len(shards), size)]


def rows_of_group(group: Sequence[int], *, rows: int) -> int:
    """Passages in a group of shards of a segment of `rows` passages."""
    return sum(min(SHARD_ROWS, rows - shard * SHARD_ROWS) for shard in group)


class ShardEncoder:
    """Encodes and writes shards of one job, in one thread; `finish` waits for the writes under way, `close` ends it.

    `codec` and `encoder` may be shared by several; `encoded` counts passages as they leave the device.
    """

    def __init__(self, work: ShardWork, codec: Codec, encoder: MemoryEncoder, encoded: Count) -> None:
        self._work, self._codec, self._encoder, self._encoded = work, codec, encoder, encoded
        self._writer = SegmentWriter(work.memory, work.segment)
        self._writer.create_arrays(work.rows, work.window, self._codec.code_bytes)
        self._text = None if work.parts is None else PlannedText(self._writer.store, work.parts)
        self._ledger = Ledger(work.memory, work.job_id)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shard-writer")
        self._writing: list[Future[None]] = []

    def encode(self, shards: Sequence[int]) -> None:
        """Encodes the passages of `shards` and hands each finished shard to the writer.

        At most one group waits to be written, so memory holds two. Errors of a write surface here or in `finish`.
        """
        tokens: list[npt.NDArray[np.int32]] = []
        starts = [0]
        passages: list[str] = []
        for shard in shards:
            for passage in self._passages(shard):
                tokens.append(passage.tokens)
                passages.append(passage.passage_id)
            starts.append(len(tokens))
        lengths = np.fromiter((len(t) for t in tokens), np.int32, len(tokens))
        # calloc leaves untouched pages to the system: padding costs no memory and no time.
        shape = (self._work.window, self._codec.code_bytes)
        codes = [np.zeros((starts[i + 1] - starts[i], *shape), np.uint8) for i in range(len(shards))]
        left = [len(c) for c in codes]
        pending: list[Future[None]] = []
        for batch in self._encoder.encode(tokens):
            self._encoded.add(len(batch.indices))
            refuse_non_finite(self._codec, batch, passages)
            owners = np.searchsorted(starts, batch.indices, side="right") - 1
            for row, (index, owner) in enumerate(zip(batch.indices.tolist(), owners.tolist(), strict=True)):
                length = lengths[index]
                codes[owner][index - starts[owner], :length] = batch.outputs[row, :length]
                left[owner] -= 1
                if not left[owner]:
                    span = slice(starts[owner], starts[owner + 1])
                    pending.append(self._pool.submit(self._write, shards[owner], codes[owner], lengths[span]))
        del codes
        self._await(self._writing)
        self._writing = pending

    def _passages(self, shard: int) -> list[Passage]:
        """The passages of a shard, whose text shard is there when this returns."""
        if self._text is None:
            return self._writer.read_text(shard)
        passages = self._text.read_shard(shard)
        self._writer.write_text(shard, passages)
        return passages

    def finish(self) -> None:
        """Waits until everything encoded so far is written and in the ledger; raises what a write raised."""
        self._await(self._writing)

    def close(self) -> None:
        """Ends the writer's thread; writes that have not begun are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _write(self, shard: int, codes: npt.NDArray[np.uint8], lengths: npt.NDArray[np.int32]) -> None:
        self._ledger.record(self._writer.write_shard(shard, codes, lengths))

    @staticmethod
    def _await(writes: list[Future[None]]) -> None:
        while writes:
            writes.pop(0).result()


def load_encoder(work: ShardWork) -> tuple[Codec, MemoryEncoder]:
    """The memory's codec and the compiled memory encoder of a job.

    Raises MismatchError for a model of another fingerprint, and for a memory of another codec.
    """
    check_sight(work)
    enable_compilation_cache()
    loaded = load_model(work.model).with_window(work.window)
    if loaded.fingerprint != work.fingerprint:
        raise MismatchError(
            f"{work.model}: a worker found another encoder ({loaded.fingerprint[:12]}…) there than the job was started "
            f"with ({work.fingerprint[:12]}…); give every worker the same model directory"
        )
    codec = _memory_codec(work)
    return codec, MemoryEncoder(loaded, precision=work.precision, shapes=work.shapes, transform=codec.encode)


def check_sight(work: ShardWork) -> None:
    """Whether this process sees the memory and the model; raises what keeps it from that, and loads nothing large."""
    _memory_codec(work)
    if not Ledger(work.memory, work.job_id).is_planned:
        raise MismatchError(
            f"a worker does not find the job {work.job_id} there", where=work.memory, remedy="let it see the same files"
        )
    check_model(work.model)


def _memory_codec(work: ShardWork) -> Codec:
    """The codec that the memory itself describes, with the memory's own tables."""
    identity = read_identity(work.memory)
    found, started_with = (spec_text(identity.codec), identity.tables_sha256), (work.codec, work.tables_sha256)
    if found != started_with:
        raise MismatchError(
            f"a worker found the codec {_named(*found)} there, the job was started with {_named(*started_with)}",
            where=work.memory,
            remedy="run the job again, and let it end before the memory is replaced",
        )
    return codec_from_spec(identity.codec, read_tables(work.memory, identity))


def _named(codec: str, tables_sha256: str) -> str:
    """A codec and its tables in a message."""
    return f"{codec} with tables {tables_sha256[:12]}…" if tables_sha256 else codec


class EncodeShards(beam.DoFn):
    """Encodes groups of shard numbers; outputs nothing, the ledger is the result.

    All copies of the step in one process share the weights, which are loaded once and dropped with the last of them.
    """

    def __init__(self, work: ShardWork, encoded: PerProcess[Count]) -> None:
        self._work, self._encoded = work, encoded
        self._loaded = PerProcess(functools.partial(load_encoder, work))

    def check(self) -> None:
        """Raises what keeps this process from running the step, and loads nothing large."""
        check_sight(self._work)

    def setup(self) -> None:
        with contextlib.ExitStack() as stack:
            codec, encoder = stack.enter_context(self._loaded)
            encoded = stack.enter_context(self._encoded)
            self._encoder = ShardEncoder(self._work, codec, encoder, encoded)
            stack.callback(self._encoder.close)
            self._in_use = stack.pop_all()

    def process(self, group: tuple[int, ...]) -> Iterator[None]:
        self._encoder.encode(group)
        return iter(())

    def finish_bundle(self) -> None:
        self._encoder.finish()

    def teardown(self) -> None:
        del self._encoder  # it holds the weights
        self._in_use.close()
