"""What the ranges of the sources have found about a version, put together: what goes, what comes, what moved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.memory import Memory
from .changes import Changes
from .range_comparison import EXAMPLES
from .row_numbers import RowNumbers


class Comparison:
    """Takes what each range found (`RangeComparison`), in their order, and knows what the sources change in `memory`.

    With `partial`, passages of articles that the sources do not hold stay. Holds a byte a passage, twenty bytes for
    each passage that moved, and, as Arrow arrays, the ids of articles that have something new or whose record was
    rejected (with `partial`, of all articles met).
    """

    def __init__(self, memory: Memory, *, partial: bool = False) -> None:
        self.memory = memory
        self.partial = partial
        self.added = 0
        """Passages that the base lacks."""
        self.kept_tokens = 0
        """Tokens of the passages that the sources and the base both hold."""
        self.unidentified = 0
        """Rejected records whose article cannot be told."""
        self.added_examples: list[tuple[str, str, str]] = []
        """(article id, title, text) of the first passages that the base lacks."""
        self._seen = np.zeros(memory.passages, np.bool_)
        self._moved: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self._places: list[npt.NDArray[np.int32]] = [np.zeros((0, 4), np.int32)]
        self._ids: dict[str, list[pa.Array]] = {
            name: [pa.array([], pa.string())] for name in ("renewed", "met", "rejected", "emptied")
        }

    def take(self, arrays: Mapping[str, pa.Array], added: int) -> None:
        """What the next range found, and how many of its passages the base lacks."""
        self.added += added
        self._seen[arrays["kept"].to_numpy()] = True
        if len(arrays["moved"]):
            self._moved.append(arrays["moved"].to_numpy())
            self._places.append(arrays["places"].to_numpy().reshape(-1, 4))
        for name, found in self._ids.items():
            if name in arrays and len(arrays[name]):
                found.append(arrays[name])
        kept_tokens, unidentified = arrays["numbers"].to_pylist()
        self.kept_tokens += kept_tokens
        self.unidentified += unidentified
        if len(self.added_examples) < EXAMPLES:
            texts = arrays["examples"].to_pylist()
            self.added_examples += zip(texts[::3], texts[1::3], texts[2::3], strict=True)
            del self.added_examples[EXAMPLES:]

    @property
    def renewed(self) -> pa.Array:
        """Ids of articles that have a passage which the base lacks."""
        return self._all("renewed")

    @property
    def met(self) -> pa.Array:
        """Ids of all articles of the sources; with `partial` only."""
        return self._all("met")

    @property
    def rejected(self) -> pa.Array:
        """Ids of articles that have a record, or a part of one, that cannot be used."""
        return self._all("rejected")

    @property
    def emptied(self) -> pa.Array:
        """Ids of articles whose last record has an empty text; with `partial` only."""
        return self._all("emptied")

    def _all(self, name: str) -> pa.Array:
        self._ids[name] = [pc.unique(pa.concat_arrays(self._ids[name]))]
        return self._ids[name][0]

    def changes(self, deleted: pa.Array | None = None) -> Changes:
        """The changes, once all ranges are taken; `deleted` are ids of articles to drop besides (with `partial`)."""
        numbers = RowNumbers(self.memory)
        if self.partial:
            seen = numbers.marked(self._seen)
            gone = self.met if deleted is None else pa.concat_arrays([self.met, deleted])
            dead = np.zeros(numbers.count, np.bool_)
            for batch in self.memory.passage_table(("article_id", "segment", "row")):
                dead[numbers.of_batch(batch.filter(pc.is_in(batch.column("article_id"), value_set=gone)))] = True
            dead &= ~seen
        else:
            dead = numbers.marked(self._seen, False)
        moved = numbers.of_positions(np.concatenate(self._moved))
        order = np.argsort(moved)
        return Changes(dead, moved[order], np.concatenate(self._places)[order])
