"""Late interaction finds gold passages before BM25 does, and hardly less well from codes than from what they stand for.

Real Wikipedia, human questions, the sample reader's encoder: all of the data where it is at hand, else the excerpt.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from real_data import EXCERPT, WHOLE

from glimmer import UsageError
from glimmer.encoders.models import LoadedModel, load_model
from glimmer.pipelines.encode import encode
from glimmer.reader.formats.queries import open_queries
from glimmer.reader.serving.answerer import load_network
from glimmer.reader.serving.candidates import CandidateFinder
from glimmer.reader.serving.clock import Clock
from glimmer.reader.serving.late_interaction import LateInteraction
from glimmer.reader.serving.question_batches import Prepared
from glimmer.reader.serving.retrieval_index import open_index
from glimmer.reader.serving.token_frequencies import open_token_frequencies
from glimmer.reader.training.examples import gold_positions
from glimmer.storage.memory import Memory

DATA = WHOLE if WHOLE.source.exists() else EXCERPT
RETRIEVE = 200
CODECS = ("bfloat16", "int8", "pq:bytes=48")


@pytest.fixture(scope="module")
def sample() -> LoadedModel:
    try:
        return load_model("sample")
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def recalls(sample: LoadedModel) -> Iterator[dict[str, tuple[float, float]]]:
    """Recall@1 and @10 by codec, and `BM25`'s."""
    network, found = load_network(sample, "float32"), {}
    with tempfile.TemporaryDirectory() as place:
        for codec in CODECS:
            path = Path(place) / codec.partition(":")[0]
            encode(sources=[str(DATA.source)], memory=path, model="sample", codec=codec)
            memory = Memory.open(path)
            asked = list(gold_positions(memory, open_queries(DATA.questions)))
            queries, gold = [query for query, _ in asked], [set(positions) for _, positions in asked]
            first = CandidateFinder(limit=RETRIEVE, index=open_index(memory), provided=None).find(queries)
            late = LateInteraction(
                sample,
                *network,
                memory,
                open_token_frequencies(memory),
                retrieve=RETRIEVE,
                keep=10,
                weight=0.05,
                clock=Clock(),
            )
            prepared = [
                Prepared(number=0, query=query, tokens=tokens, found=each, lengths=memory.token_counts(each.positions))
                for query, tokens, each in zip(
                    queries, sample.question_tokens([query.question for query in queries]), first, strict=True
                )
            ]
            for name, ranked in (("BM25", first), (codec, [each.found for each in late.narrow(prepared)])):
                orders = [each.positions.tolist() for each in ranked]
                found[name] = tuple(
                    float(np.mean([bool(known & set(order[:k])) for known, order in zip(gold, orders, strict=True)]))
                    for k in (1, 10)
                )
        yield found  # type: ignore[misc]


@pytest.mark.slow
def test_ten_chosen_by_it_hold_more_gold_than_bm25s_ten(recalls: dict[str, tuple[float, float]]) -> None:
    assert recalls["bfloat16"] > recalls["BM25"]
    assert recalls["bfloat16"][1] >= recalls["BM25"][1]


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS[1:])
def test_order_over_codes_loses_at_most_a_hundredth(recalls: dict[str, tuple[float, float]], codec: str) -> None:
    assert recalls[codec][1] >= recalls["bfloat16"][1] - 0.01
