"""Fitting a codec's tables: a sample of the corpus's own token representations, the same however the job is run.

Codecs with learned tables, product quantisation such as MEMORY-VQ's (arXiv 2308.14903) for one, are fitted once, after
the plan and before the first passage is encoded. What they are fitted to follows from the plan alone, never from
batches, engines or the order of workers: passages are spread evenly over the planned rows, tokens evenly over the
passages. The ledger keeps the tables, so that an interrupted job resumes with the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from ...encoders.compilation import enable_compilation_cache
from ...encoders.memory_encoder import MemoryEncoder
from ...encoders.models import LoadedModel
from ...progress import Progress
from ...storage.codecs import (
    CodecSpec,
    FitSample,
    Tables,
    fit_codec,
    fit_samples,
    new_codec,
    tables_from_bytes,
    tables_to_bytes,
)
from ...storage.identity import Identity
from ...storage.passage import Passage
from ..jobs import Job
from .finite_codes import not_finite

SEED = 0
TOKENS_A_PASSAGE = 96
"""Tokens of a passage in the sample, on average. Fewer give a better sample, since neighbours are alike, and cost more:
every passage is encoded whole. 65,536 tokens take 683 passages."""


class Rows(Protocol):
    """The passages that were planned."""

    def read_rows(self, rows: Sequence[int]) -> list[Passage]:
        """The passages in `rows`, ascending."""


def fitted_tables(
    job: Job, *, spec: CodecSpec, model: LoadedModel, identity: Identity, rows: int, text: Rows
) -> tuple[Tables, dict[str, Any] | None]:
    """The tables of a new memory's codec, and what they were fitted to.

    Args:
        job: has planned `rows` passages; its ledger keeps what was fitted, and what it has is used.
        spec: the codec.
        model, identity: the memory's encoder, precision and shapes.
        rows: passages planned; `text` reads them.

    Returns (tables, empty for a codec without; JSON-able `passages`, `samples`, `seed` and `tables_sha256`, None for a
    codec that is not fitted). Raises what the codec's `fit` and the encoder raise.
    """
    most = fit_samples(spec)
    if not most:
        return new_codec(spec).tables(), None
    kept = job.ledger.read_fit()
    if kept is None:
        with job.timed("fit"):
            each = min(TOKENS_A_PASSAGE, identity.passages.window * 3 // 4)
            passages = text.read_rows(spread(rows, -(-most // each), f"{SEED}/passages").tolist())
            enable_compilation_cache()
            encoder = MemoryEncoder(
                model, precision=identity.encoder.precision, shapes=identity.shapes, transform=_as_float32
            )
            sample = sampled_tokens(encoder, passages, most, job.progress)
            del encoder
            job.progress.stage("fit", total=None, unit="tokens", start=len(sample))
            codec = fit_codec(spec, sample, SEED)
            job.progress.done()
            fit = {"passages": len(passages), "samples": len(sample), "seed": SEED}
            job.ledger.write_fit(fit, tables_to_bytes(codec.tables()))
        kept = job.ledger.read_fit()
        assert kept is not None, "the fit was just written"
    fit, content = kept
    return tables_from_bytes(content), fit


def sampled_tokens(encoder: MemoryEncoder, passages: Sequence[Passage], most: int, progress: Progress) -> FitSample:
    """Representations of n <= `most` tokens, with their ids and positions, in their order.

    They are spread evenly over all of `passages`. InputError names a passage whose representation is not finite.

    `encoder` gives float32 [rows, length, width]; a representation is what a codec's `encode` gets.
    """
    tokens = [passage.tokens for passage in passages]
    ends = np.cumsum([len(each) for each in tokens])
    chosen = spread(int(ends[-1]), most, f"{SEED}/tokens")
    owners = np.searchsorted(ends, chosen, side="right")
    places = chosen - np.concatenate([[0], ends[:-1]])[owners]
    edges = np.searchsorted(owners, np.arange(len(tokens) + 1))  # passage i has the samples edges[i] … edges[i + 1]
    samples = np.empty((len(chosen), encoder.model.config.encoder.d_model), np.float32)
    progress.stage("sample", total=len(tokens), unit="passages")
    done = 0
    for batch in encoder.encode(tokens):
        for row, index in enumerate(batch.indices.tolist()):
            part = slice(edges[index], edges[index + 1])
            samples[part] = batch.outputs[row, places[part]]
            if not np.isfinite(samples[part]).all():
                raise not_finite(passages[index].passage_id, "no codec can be fitted to")
        done += len(batch.indices)
        progress.at(done)
    progress.done()
    ids = np.concatenate(tokens)[chosen].astype(np.int32)
    embeddings = encoder.model.tensors.expect(
        "encoder.embedding", (encoder.model.config.encoder.vocab_size, samples.shape[1])
    ).astype(np.float32)
    return FitSample(vectors=samples, ids=ids, positions=places.astype(np.int32), embeddings=embeddings)


def spread(total: int, most: int, seed: str) -> npt.NDArray[np.int64]:
    """int64 [min(total, most)], ascending and distinct: 0 … total - 1 cut into so many spans, a number out of each.

    Where in its span follows from a hash, so that a corpus with a period is sampled fairly, and no release of a library
    of random numbers changes it.
    """
    count = min(total, most)
    chosen = np.empty(count, np.int64)
    for number in range(count):
        first, end = number * total // count, (number + 1) * total // count
        dice = int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:8], "little")
        chosen[number] = first + dice % (end - first)
    return chosen


def _as_float32(hidden: jax.Array, ids: jax.Array) -> jax.Array:
    return hidden.astype(jnp.float32)
