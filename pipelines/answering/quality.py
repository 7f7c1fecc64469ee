"""How good predictions for a query file with gold are: exact match, F1, and what re-ranking did to the first passage.

A training run asks at every evaluation, the demo once. recall@1 is how often the first passage is one that the
gold provenance names: the first stage's first, and the first that the decoder read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ... import UsageError
from ...reader.formats.kilt import read_guess
from ...reader.formats.queries import QueryFile
from ...reader.serving.candidates import CandidateFinder
from ...reader.serving.retrieval_index import open_index
from ...reader.training.examples import gold_positions
from ...reader.training.log import Scores
from ...storage.memory import Memory
from .tally import evaluate_answers


class AnswerQuality:
    """Scores predictions of `queries`, KILT records with gold, answered from `memory`; UsageError without gold."""

    def __init__(self, memory: Memory, queries: QueryFile) -> None:
        if not queries.with_gold:
            raise UsageError(f"{queries.name} has no gold answers to compare with")
        self._memory, self._queries = memory, queries
        self._gold = [set(gold) for _, gold in gold_positions(memory, queries)]
        first = CandidateFinder(limit=1, index=open_index(memory), provided=None).find(list(queries))
        hits = [bool(gold & set(each.positions.tolist())) for gold, each in zip(self._gold, first, strict=True)]
        self._recall_before = float(np.mean(hits))

    def __call__(self, predictions: Path) -> Scores:
        """The scores of a prediction file that answers the queries in their order."""
        scores = evaluate_answers(self._queries, predictions)
        assert scores is not None
        firsts = [
            next((page.passage_id for page in record.outputs[0].provenance or ()), None)
            for record in read_guess(predictions)
        ]
        known = [first for first in firsts if first is not None]
        located = dict(zip(known, self._memory.locate(known).tolist(), strict=True)) if known else {}
        hits = [located.get(first or "", -1) in gold for first, gold in zip(firsts, self._gold, strict=True)]
        return Scores(
            em=scores.metrics["em"],
            f1=scores.metrics["f1"],
            recall1_before=self._recall_before,
            recall1_after=float(np.mean(hits)),
        )
