"""Answers from codes held against answers from uncompressed representations, question by question.

The same questions are answered both ways, so differences are paired: what makes a question hard takes no part in them.
Intervals are percentiles of a bootstrap over questions (Efron and Tibshirani, An Introduction to the Bootstrap, 13.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...reader.formats.kilt import gold_answers
from ...reader.formats.metrics import exact_match, f1
from ...reader.serving.answerer import AnsweredQuery

RESAMPLES = 10_000
_SEED = 0
_AT_ONCE = 1 << 22


@dataclass(frozen=True, kw_only=True)
class PairedScore:
    """An average over questions, and how it differs from that of the same questions answered without compression.

    Attributes:
        value: the average, in [0, 1].
        difference: `value` less the uncompressed one's.
        low, high: the difference's 95 % interval, by a bootstrap of 10,000 resamples of the questions.
    """

    value: float
    difference: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The four numbers by name."""
        return {"value": self.value, "difference": self.difference, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class ScoredAnswers:
    """The answers to a query file, one entry a query, in order.

    Attributes:
        texts: the answers.
        em, f1: float64 [n], NaN where the query has no gold answer.
        first: int64 [n], the place of the passage that was read first; -1 where there is none.
        reranked: whether a re-ranker chose it.
    """

    texts: tuple[str, ...]
    em: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]
    first: npt.NDArray[np.int64]
    reranked: bool

    @classmethod
    def of(cls, answers: Iterable[AnsweredQuery]) -> ScoredAnswers:
        """Scores answers as they come, as `glimmer evaluate` does."""
        rows: list[tuple[str, float, float, int, bool]] = []
        for each in answers:
            gold = gold_answers(each.query.outputs or ())
            text = each.text.strip()
            em = float("nan") if not gold else exact_match(text, gold) if text else 0.0
            words = float("nan") if not gold else f1(text, gold) if text else 0.0
            first = int(each.found.positions[each.chosen[0]]) if each.chosen else -1
            rows.append((text, em, words, first, each.candidate_scores is not None))
        return cls(
            texts=tuple(row[0] for row in rows),
            em=np.array([row[1] for row in rows]),
            f1=np.array([row[2] for row in rows]),
            first=np.array([row[3] for row in rows], np.int64),
            reranked=any(row[4] for row in rows),
        )

    @property
    def with_gold(self) -> int:
        """Queries that have a gold answer."""
        return int(np.count_nonzero(~np.isnan(self.em)))

    def compared(self, whole: ScoredAnswers) -> dict[str, Any]:
        """Fields of `CodecFigures`: how these answers differ from `whole`, those without compression."""
        read = whole.first >= 0
        pairs = zip(self.texts, whole.texts, strict=True)
        reranked = self.reranked and bool(read.any())
        return {
            "same_answer": float(np.mean([one == other for one, other in pairs])),
            "same_first": float(np.mean(self.first[read] == whole.first[read])) if reranked else None,
            "em": paired(self.em, whole.em) if self.with_gold else None,
            "f1": paired(self.f1, whole.f1) if self.with_gold else None,
        }


def paired(values: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> PairedScore:
    """The average of `values` and of their differences to `whole`, with a bootstrap interval; NaN is left out."""
    known = ~np.isnan(values)
    differences = values[known] - whole[known]
    random = np.random.Generator(np.random.PCG64(_SEED))
    means: list[npt.NDArray[np.float64]] = []
    each = max(1, _AT_ONCE // len(differences))
    for first in range(0, RESAMPLES, each):
        drawn = random.integers(0, len(differences), (min(each, RESAMPLES - first), len(differences)))
        means.append(differences[drawn].mean(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return PairedScore(
        value=float(values[known].mean()), difference=float(differences.mean()), low=float(low), high=float(high)
    )
