"""A feed of changes: the last record of an article decides, and one whose text is empty removes the article.

The feed is read twice: first for the place of each article's last record, sixteen bytes a record, then for the records
themselves. What was superseded is skipped; a record that cannot be read is passed on wherever it stands, so that it is
counted and set aside. Where it is an article's last, it supersedes the others all the same: nobody knows what it says.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from os import PathLike

import numpy as np
import numpy.typing as npt

from ... import InputError
from ..corpus import Corpus, Rejection
from ..corpus.article import Record

EMPTY: str = "empty_text"


def id_hash(article_id: str) -> int:
    """64 bits of BLAKE2b: two of 22 million ids share one with a probability of one in 75,000."""
    return int.from_bytes(hashlib.blake2b(article_id.encode(), digest_size=8).digest(), "little")


class Feed:
    """The records of `corpus` that decide; a plan reads them.

    Attributes:
        sources: the names of the corpus's sources.
        emptied: ids of articles whose last record has an empty text; complete after `read`.
        superseded: records that a later one of the same article made void; complete after `read`.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self.sources: Sequence[str | PathLike[str]] = corpus.sources
        self.emptied: set[str] = set()
        self.superseded = 0

    def read(self, advance: Callable[[float], None]) -> Iterator[Record]:
        """Articles and rejections in the feed's order; ids of articles are unique. Raises as `Corpus.read` does."""
        self.emptied.clear()
        self.superseded = 0
        decides = self._last_records(lambda share: advance(share / 2))
        count = 0
        for record in self._corpus.read(lambda share: advance(0.5 + share / 2), unique=False):
            if count == len(decides):
                raise self._changed()
            empties = isinstance(record, Rejection) and record.reason == EMPTY and bool(record.article_id)
            if not decides[count] and (empties or not isinstance(record, Rejection)):
                self.superseded += 1
            elif empties:
                self.emptied.add(record.article_id)
            else:
                yield record
            count += 1
        if count != len(decides):
            raise self._changed()

    def _last_records(self, advance: Callable[[float], None]) -> npt.NDArray[np.bool_]:
        """bool [records of the feed]: whether a record is its article's last, or its article cannot be told."""
        keys, numbers = array("Q"), array("Q")
        count = 0
        for record in self._corpus.read(advance, unique=False):
            if record.article_id:
                keys.append(id_hash(record.article_id))
                numbers.append(count)
            count += 1
        decides = np.ones(count, np.bool_)
        if keys:
            key, number = np.frombuffer(keys, np.uint64), np.frombuffer(numbers, np.uint64).astype(np.int64)
            order = np.argsort(key, kind="stable")
            repeated = key[order][:-1] == key[order][1:]
            decides[number[order][:-1][repeated]] = False
        return decides

    def _changed(self) -> InputError:
        return InputError(f"{', '.join(map(str, self.sources))}: changes while it is read; run the command again")
