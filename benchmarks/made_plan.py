"""A plan of made-up parts, of any size: the parts of all ranges are complete, so that only their merge is left to do.

The source is a sparse file: its first lines are articles, by which its format is told, and its size is that of a corpus
of so many passages, which decides into how many ranges it is cut. No part has text: the merge does not read any.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from made_memory import ARTICLE

from glimmer.pipelines.corpus import Corpus
from glimmer.pipelines.corpus.ranges import RANGE_BYTES, SourceRange
from glimmer.pipelines.planning.plan_parts import PartWriter
from glimmer.pipelines.planning.plan_sources import PlannedSources, plan_sources
from glimmer.pipelines.planning.plan_step import RangeTask, StoredRanges, Tools
from glimmer.pipelines.planning.plan_summary import PlanCounts
from glimmer.pipelines.planning.range_plan import PlanSettings, RangePlan
from glimmer.storage.stores import open_store

_PASSAGE_BYTES = 1600  # of KILT's knowledge source: 35 GB for 22 million passages
_WINDOW = 256


class MadePlan:
    """A plan of `rows` passages in `home`."""

    def __init__(self, home: Path, rows: int) -> None:
        self._home, self._rows = home, rows
        self._source = home / "corpus.jsonl"

    @property
    def ranges(self) -> int:
        """How many there are."""
        return len(self._ranges(self._corpus()))

    def make(self) -> None:
        """Makes the source and the parts."""
        lines = [
            json.dumps({"id": str(number), "title": f"Article {number}", "text": f"It is the article {number}. " * 20})
            for number in range(2000)
        ]
        with self._source.open("w") as file:
            file.write("\n".join(lines) + "\n")
            file.truncate(max(self._rows * _PASSAGE_BYTES, file.tell()))
        ranges = self._ranges(self._corpus())
        edges = np.linspace(0, self._rows // ARTICLE, len(ranges) + 1).astype(np.int64).tolist()
        store = open_store(self._home)
        for number, (source, first, last) in enumerate(zip(ranges, edges, edges[1:], strict=False)):
            articles = last - first
            counts = PlanCounts.of_window(_WINDOW)
            counts.articles = counts.paragraphs = counts.lines = articles
            counts.passages = counts.rows = articles * ARTICLE
            counts.tokens = counts.passages * (_WINDOW // 2)
            counts.lengths[_WINDOW // 2] = counts.passages
            arrays = {
                "drafts": pa.array(np.full(articles, ARTICLE, np.uint32)),
                "ids": pa.array(self._digests(number, articles)),
            }
            writer = PartWriter(store, f"plan/{RangeTask(number, source).name}")
            writer.finish(RangePlan(counts=counts, arrays=arrays))

    def merge(self) -> PlannedSources:
        """What the driver does once the ranges are planned."""
        corpus = self._corpus()
        tools = Tools(settings=PlanSettings(window=_WINDOW), tokenise=_nothing_to_tokenise)
        return plan_sources(corpus, self._ranges(corpus), StoredRanges(open_store(self._home), "plan", tools=tools))

    def _corpus(self) -> Corpus:
        return Corpus([str(self._source)])

    def _ranges(self, corpus: Corpus) -> Sequence[SourceRange]:
        return corpus.ranges(RANGE_BYTES)

    @staticmethod
    def _digests(number: int, articles: int) -> npt.NDArray[np.uint64]:
        return np.random.default_rng((9, number)).integers(0, 1 << 64, 2 * articles, np.uint64)


def _nothing_to_tokenise(pairs: Sequence[tuple[str, str]]) -> list[npt.NDArray[np.int32]]:
    raise AssertionError("all parts are complete")
