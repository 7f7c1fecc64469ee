"""Which records of a range count: no two articles of one id; of a feed, the last record of each article.

A range sees its own records only. What the other ranges have to say comes from the driver, which has the hashes of the
ids of all of them (`article_ids`): the numbers of the articles that an earlier range holds, or a bit for each record.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ... import InputError
from ..corpus.article import Article, Record
from ..corpus.corpus import duplicate
from ..corpus.idset import IdSet, id_digest
from ..corpus.rejects import Rejection

EMPTY = "empty_text"


class Selection(Protocol):
    """The records of one range that count."""

    @property
    def superseded(self) -> int:
        """Records that a later record of the same article made void."""

    def select(self, records: Iterable[Record]) -> Iterator[Record]:
        """Articles, of which no two have the same id, and rejections, in the order of `records`."""

    def arrays(self) -> dict[str, pa.Array]:
        """What was found on the way, for the driver."""


class FirstRecords:
    """The first article of each id counts; a later one is rejected.

    `held_before` are the numbers of articles that an earlier range holds, among those that are first in this one.
    Gives `ids`: the two halves of the digest of each article that is first in this range, uint64.
    """

    superseded = 0

    def __init__(self, held_before: Sequence[int] = ()) -> None:
        self._held_before = frozenset(held_before)
        self._ids = array("Q")

    def select(self, records: Iterable[Record]) -> Iterator[Record]:
        seen = IdSet()
        number = 0
        for record in records:
            if not isinstance(record, Article):
                yield record
                continue
            digest = id_digest(record.article_id)
            if not seen.add(digest):
                yield duplicate(record)
                continue
            self._ids.extend(digest)
            yield duplicate(record) if number in self._held_before else record
            number += 1

    def arrays(self) -> dict[str, pa.Array]:
        return {"ids": pa.array(np.frombuffer(self._ids, np.uint64))}


class DecidingRecords:
    """Of a feed of changes: the last record of an article decides, and one whose text is empty removes the article.

    `decides`, bool [records of the range], says which are last. What was superseded is skipped; a record that cannot be
    read is passed on wherever it stands, so that it is counted and set aside. Gives `emptied`: ids of articles whose
    last record has an empty text. Raises InputError where the range has another number of records.
    """

    def __init__(self, decides: npt.NDArray[np.bool_], sources: Sequence[str]) -> None:
        self._decides, self._sources = decides, sources
        self._emptied: list[str] = []
        self.superseded = 0

    def select(self, records: Iterable[Record]) -> Iterator[Record]:
        count = 0
        for record in records:
            if count == len(self._decides):
                raise self._changed()
            empties = isinstance(record, Rejection) and record.reason == EMPTY and bool(record.article_id)
            if not self._decides[count] and (empties or not isinstance(record, Rejection)):
                self.superseded += 1
            elif empties:
                self._emptied.append(record.article_id)
            else:
                yield record
            count += 1
        if count != len(self._decides):
            raise self._changed()

    def arrays(self) -> dict[str, pa.Array]:
        return {"emptied": pa.array(self._emptied, pa.string())}

    def _changed(self) -> InputError:
        return InputError(f"{', '.join(self._sources)}: changes while it is read; run the command again")


def record_ids(records: Iterable[Record]) -> dict[str, pa.Array]:
    """`ids`: the two halves of the digest of each record's article id, uint64; nulls where it cannot be told."""
    ids, known = array("Q"), array("B")
    for record in records:
        ids.extend(id_digest(record.article_id))
        known.append(bool(record.article_id))
    mask = np.repeat(np.frombuffer(known, np.uint8) == 0, 2)
    return {"ids": pa.array(np.frombuffer(ids, np.uint64), mask=mask)}


@dataclass(frozen=True)
class SelectionSpec:
    """What a worker needs to select the records of one range; picklable, with a name that tells it from others.

    Attributes:
        held_before: see `FirstRecords`; None for a feed.
        decides: of a feed, a bit for each of `records` records.
        sources: names of the sources, for messages.
    """

    held_before: tuple[int, ...] | None = ()
    decides: bytes = b""
    records: int = 0
    sources: tuple[str, ...] = ()

    @classmethod
    def deciding(cls, decides: npt.NDArray[np.bool_], sources: Sequence[str]) -> SelectionSpec:
        """The records of a feed's range for which `decides` is true."""
        return cls(None, np.packbits(decides).tobytes(), len(decides), tuple(sources))

    def __call__(self) -> Selection:
        """A selection, to be used once."""
        if self.held_before is not None:
            return FirstRecords(self.held_before)
        bits = np.unpackbits(np.frombuffer(self.decides, np.uint8), count=self.records).astype(np.bool_)
        return DecidingRecords(bits, self.sources)

    def describe(self) -> list[Any]:
        """What tells this selection from others, JSON-able."""
        return [self.held_before, self.decides.hex(), self.records]
