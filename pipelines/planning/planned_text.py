"""The rows of a plan, put together from its parts: text shard after text shard, or a few rows anywhere."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...storage.passage import SHARD_ROWS, Passage
from ...storage.stores import Store, open_store
from .plan_parts import PartText

_MOST_OPEN = 4


@dataclass(frozen=True)
class PartRows:
    """Where the rows of a plan are: the parts under `key`, in order, and how many rows each has. Small, picklable."""

    key: str
    parts: tuple[str, ...]
    rows: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any] | None) -> PartRows | None:
        """What `to_json` wrote; None for a plan of an earlier release, whose text shards are in the segment."""
        return None if found is None else cls(found["key"], tuple(found["parts"]), tuple(found["rows"]))


class PlannedText:
    """Reads the passages of a plan; a shard is read from the one or several parts that its rows are in."""

    def __init__(self, store: Store | str, found: PartRows) -> None:
        self._store, self._found = open_store(store), found
        self._ends = list(itertools.accumulate(found.rows))
        self._open: dict[int, PartText] = {}

    @property
    def rows(self) -> int:
        """How many there are."""
        return self._ends[-1] if self._ends else 0

    def read_shard(self, shard: int) -> list[Passage]:
        """The passages of `shard`, each checked. Raises DamageError for what is not as it was planned."""
        return self.read_rows(range(shard * SHARD_ROWS, min((shard + 1) * SHARD_ROWS, self.rows)))

    def read_rows(self, rows: Sequence[int]) -> list[Passage]:
        """The passages in `rows`, ascending, each checked."""
        return list(self._passages(rows))

    def _passages(self, rows: Sequence[int]) -> Iterator[Passage]:
        for part, group in itertools.groupby(rows, key=lambda row: bisect_right(self._ends, row)):
            first = self._ends[part] - self._found.rows[part]
            yield from self._part(part).passages([row - first for row in group])

    def _part(self, number: int) -> PartText:
        if number not in self._open:
            if len(self._open) == _MOST_OPEN:
                del self._open[next(iter(self._open))]
            self._open[number] = PartText.open(self._store, f"{self._found.key}/{self._found.parts[number]}")
        return self._open[number]
