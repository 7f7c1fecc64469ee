"""The dry run: what encoding a corpus would take, found by planning all of it and encoding almost none of it.

Passages and tokens are counted, not guessed: the whole plan runs, without writing. Time is measured: one batch of every
shape that the corpus needs is run on this machine, and multiplied.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np

from ...encoders.compilation import enable_compilation_cache
from ...encoders.memory_encoder import MemoryEncoder, default_shapes
from ...encoders.models import load_model
from ...encoders.precision import PrecisionChoice, chosen_precision
from ...progress import Progress, Quiet
from ...storage.codecs import code_bytes, codec_from_tables, codec_with_zero_tables, fit_samples, new_codec
from ...storage.identity import PassageSettings
from ...storage.stores import Place
from ..corpus import Corpus
from ..corpus.listing import Sources, source_names
from ..corpus.passages import DEFAULT_WORDS
from ..encoding.given_tables import chosen_codec
from ..planning.plan_stage import plan_corpus
from ..planning.plan_summary import PlanSummary

_ROW_BYTES = 180  # ids, hashes and positions of a passage, in the text shard and in the catalog


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What an encode job would take.

    Attributes:
        plan: counts of articles, passages and tokens.
        flops: of the memory encoder over real tokens (two for each multiply-add); `padded_flops` over whole batches.
        most_bytes: on disk before compression of the codes; real memories are smaller.
        text_bytes: of these, text, token ids and catalog.
        batches: batches by length.
        compilations: programs the job compiles.
        seconds: expected time of the encode stage here, from one timed batch of each shape, plus the plan's,
            without fitting a codec.
        devices: what it was timed on.
        corpus: the formats met by file, and what was skipped.
    """

    plan: PlanSummary
    flops: float
    padded_flops: float
    most_bytes: int
    text_bytes: int
    batches: dict[int, int]
    compilations: int
    seconds: float
    devices: str
    corpus: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-able, for `--json`."""
        return asdict(self) | {"plan": {k: v for k, v in self.plan.to_json().items() if k != "lengths"}}


def dry_run(
    *,
    sources: Sources,
    model: str,
    codec: str | None = None,
    codec_tables: Place | None = None,
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    mixed: bool = False,
    passage_words: int = DEFAULT_WORDS,
    precision: PrecisionChoice = "auto",
    strict: bool = False,
    progress: Progress | None = None,
) -> DryRun:
    """Counts and times what `encode` with the same arguments would do; writes nothing. Raises as `encode` does."""
    progress = progress or Quiet()
    enable_compilation_cache()
    loaded = load_model(model)
    config = loaded.config
    spec, given = chosen_codec(codec, codec_tables, loaded)
    corpus = Corpus(source_names(sources), format=format, fields=fields, mixed=mixed)
    settings = PassageSettings(words=passage_words, template=config.passage_template, window=config.window)
    summary = plan_corpus(corpus, model=loaded, passages=settings, strict=strict, progress=progress).summary
    if given is not None:
        stored_as = codec_from_tables(spec, given.tables)
    else:
        stored_as = codec_with_zero_tables(spec) if fit_samples(spec) else new_codec(spec)
    shapes = default_shapes(config.window)
    devices = jax.local_device_count()
    by_length = summary.buckets([length for _, length in shapes])
    rows = {length: count * devices for count, length in shapes}
    batches = {length: -(-passages // rows[length]) for length, passages in by_length.items()}
    decided = chosen_precision(precision, recorded=None if given is None else given.precision)
    encoder = MemoryEncoder(loaded, precision=decided, shapes=shapes, transform=stored_as.encode)
    seconds = summary.seconds
    progress.stage("time", total=sum(1 for count in batches.values() if count), unit="shapes")
    for done, (length, count) in enumerate((item for item in batches.items() if item[1]), 1):
        seconds += count * _seconds(encoder, rows[length], length)
        progress.at(done)
    progress.done()
    layers = config.memory_layers
    real = sum(passages * config.encoder.layer_cost(width) for width, passages in enumerate(summary.lengths))
    padded = sum(count * rows[length] * config.encoder.layer_cost(length) for length, count in batches.items())
    text_bytes = summary.characters * 11 // 10 + 4 * summary.tokens + _ROW_BYTES * summary.passages
    return DryRun(
        plan=summary,
        flops=2.0 * layers * real,
        padded_flops=2.0 * layers * padded,
        most_bytes=summary.tokens * code_bytes(spec) + text_bytes,
        text_bytes=text_bytes,
        batches=batches,
        compilations=encoder.compilations,
        seconds=seconds,
        devices=f"{devices} x {jax.local_devices()[0].device_kind}",
        corpus=corpus.to_json(),
    )


def _seconds(encoder: MemoryEncoder, rows: int, length: int) -> float:
    """Seconds a batch of this shape takes once it is compiled: the mean of four in a row."""
    passage = np.zeros(length, np.int32)
    for _ in encoder.encode([passage] * rows):
        pass
    begun = time.perf_counter()
    for _ in encoder.encode([passage] * (4 * rows)):
        pass
    return (time.perf_counter() - begun) / 4
