"""What a plan counts: of one range, and of all the sources."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import InputError, UsageError
from ...storage.passage import SHARD_ROWS


@dataclass(kw_only=True)
class PlanCounts:
    """Counts of a range, or of several together.

    Attributes:
        lengths: int64 [window + 1]: passages of each length in tokens.
        articles, paragraphs, blank_paragraphs, passages, split_passages, tokens, characters: see `PlanSummary`.
        rows: passages that were written: all of them, or those that the base lacks.
        lines: of a range that is a span of a file, its lines.
        superseded: records of a feed that a later record of the same article made void.
        rejected: records set aside, by reason.
        left_out: records that are no articles, by kind.
    """

    lengths: npt.NDArray[np.int64]
    articles: int = 0
    paragraphs: int = 0
    blank_paragraphs: int = 0
    passages: int = 0
    rows: int = 0
    split_passages: int = 0
    tokens: int = 0
    characters: int = 0
    lines: int = 0
    superseded: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of_window(cls, window: int) -> PlanCounts:
        """Nothing counted yet."""
        return cls(lengths=np.zeros(window + 1, np.int64))

    def add(self, other: PlanCounts) -> None:
        """Counts what `other` counts besides."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            else:
                setattr(self, each.name, mine + theirs)

    def summary(self, seconds: float) -> PlanSummary:
        """The counts as a job records them; `seconds` of wall time."""
        return PlanSummary(
            articles=self.articles,
            paragraphs=self.paragraphs,
            blank_paragraphs=self.blank_paragraphs,
            passages=self.passages,
            shards=-(-self.rows // SHARD_ROWS),
            split_passages=self.split_passages,
            tokens=self.tokens,
            characters=self.characters,
            lengths=self.lengths.tolist(),
            rejected=dict(sorted(self.rejected.items())),
            seconds=seconds,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; `from_json` reads it back."""
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "rejected": dict(self.rejected),
            "left_out": dict(self.left_out),
            "lengths": self.lengths.tolist(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PlanCounts:
        """The counts that `to_json` wrote."""
        counters = {name: Counter(values[name]) for name in ("rejected", "left_out")}
        return cls(**{**values, **counters, "lengths": np.array(values["lengths"], np.int64)})


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """What a plan made.

    Attributes:
        articles, paragraphs, blank_paragraphs: articles that gave passages, and the paragraphs in them; blank ones hold
            nothing to store.
        passages, shards: passages of the sources, and text shards of 1,024 rows; against a base only what the base
            lacks becomes a row.
        split_passages: rows that came of cutting a passage that overflowed the window.
        tokens, characters: in all passages; special tokens included.
        lengths: `lengths[n]` passages have n tokens, n from 0 to the window.
        rejected: records set aside, by reason.
        seconds: wall time.
    """

    articles: int
    paragraphs: int
    blank_paragraphs: int
    passages: int
    shards: int
    split_passages: int
    tokens: int
    characters: int
    lengths: list[int]
    rejected: dict[str, int]
    seconds: float

    @property
    def window(self) -> int:
        """The window it was planned for, in tokens."""
        return len(self.lengths) - 1

    def buckets(self, edges: Sequence[int]) -> dict[int, int]:
        """Passages by length bucket: edge -> passages longer than the edge before and at most this one.

        `edges` ascend, and the last is at least the longest passage; raises UsageError otherwise.
        """
        bounds = [0, *edges]
        if any(a >= b for a, b in zip(bounds, edges, strict=False)) or any(self.lengths[bounds[-1] + 1 :]):
            raise UsageError(f"length buckets {list(edges)} do not ascend to the longest passage")
        return {b: sum(self.lengths[a + 1 : b + 1]) for a, b in zip(bounds, edges, strict=False)}

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PlanSummary:
        """The summary `to_json` wrote. Raises InputError where a field is missing or unknown."""
        if set(values) != {f.name for f in fields(cls)}:
            raise InputError("not a plan summary of this version; plan the job again")
        return cls(**values)


def no_article(
    sources: Sequence[str | os.PathLike[str]], rejected: Mapping[str, int], path: str | os.PathLike[str] | None
) -> InputError:
    """The error for `sources` without a usable article; `path` is the file of their rejected records, None if none."""
    where = f"; see {os.fspath(path)}" if path is not None else ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
    return InputError(f"{', '.join(map(str, sources))}: no article can be used ({reasons or 'no records'}){where}")
