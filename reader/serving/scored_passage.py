"""A passage that was found or read for a question, with its score."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from ...storage.passage import Passage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class ScoredPassage(Passage):
    """A passage and its score for one question; equal to the `Passage` of the same content.

    Attributes:
        score: of a search, BM25's; of an answer, the re-ranker's, or the first stage's where the reader has no
            re-ranker. Higher is better, and scores of different questions are not comparable. None where nothing scored
            the passage: the caller gave it, and the reader has no re-ranker.
    """

    score: float | None

    @classmethod
    def scored(cls, passages: Iterable[Passage], scores: Iterable[float | None]) -> list[ScoredPassage]:
        """Passages with their scores, in order."""
        return [
            cls(**{name: getattr(passage, name) for name in _FIELDS}, score=score)
            for passage, score in zip(passages, scores, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """Ids, title, text, paragraphs and score, as JSON values."""
        return {
            "passage_id": self.passage_id,
            "article_id": self.article_id,
            "title": self.title,
            "start_paragraph_id": self.start_paragraph_id,
            "end_paragraph_id": self.end_paragraph_id,
            "text": self.text,
            "score": self.score,
        }

    def __repr__(self) -> str:
        score = "None" if self.score is None else f"{self.score:.4g}"
        return f"{Passage.__repr__(self)[:-1]}, score={score})"


_FIELDS = tuple(field.name for field in fields(Passage))
