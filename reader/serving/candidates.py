"""From a query to its candidate passages: those its file brings, else what BM25 finds, as positions in the memory.

A query file may name passages by passage id, by text (FiD's `ctxs`), by article id (DPR's and MS MARCO's passages are
articles of a memory made from them) or by place (KILT provenance). `ProvidedPassages` looks all of a file up at once:
ids in the memory's id map, everything else in one pass over the catalog. What a memory does not have is named or
counted before any answer is given. `CandidateFinder` then serves queries a few at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.memory import Memory
from ...storage.passage import content_hash, is_passage_id
from ..formats.kilt import Problems
from ..formats.queries import Candidate, Query
from .retrieval import Bm25Index

_COLUMNS = ("passage_id", "article_id", "start_paragraph_id", "start_character", "end_paragraph_id", "content_hash")
_AT_ONCE = 512  # queries looked up together
_SEPARATOR = " [SEP] "  # between subject and relation in KILT's slot filling: no word of the question

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Found:
    """A query's candidates, best first.

    Attributes:
        positions: int64 [n], places in the memory; n is at most the number asked for and may be 0.
        scores: float32 [n] of the first stage, None where the query file gives passages.
        late_scores: float32 [n] of late interaction, falling; None where it was not used.
        missing: passages that the query file gives and the memory does not have.
    """

    positions: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32] | None
    missing: int = 0
    late_scores: npt.NDArray[np.float32] | None = None

    @classmethod
    def nothing(cls) -> Found:
        """No candidate at all."""
        return cls(np.zeros(0, np.int64), None)


class CandidateFinder:
    """Finds up to `limit` candidates for each query: the first of those it brings, else the best of `index`.

    `provided` None ignores what queries bring; `index` may be None where every query brings its passages.
    """

    def __init__(self, *, limit: int, index: Bm25Index | None, provided: ProvidedPassages | None) -> None:
        self._limit, self._index, self._provided = limit, index, provided

    def find(self, queries: Sequence[Query]) -> list[Found]:
        """The candidates of each query, in order."""
        found: list[Found | None] = [None] * len(queries)
        bringing = [
            place for place, query in enumerate(queries) if self._provided is not None and query.candidates is not None
        ]
        if self._provided is not None and bringing:
            resolved = self._provided.resolve([queries[place] for place in bringing])
            for place, candidates in zip(bringing, resolved, strict=True):
                positions = list(dict.fromkeys(position for each in candidates for position in each))
                missing = sum(not each for each in candidates)
                found[place] = Found(np.array(positions[: self._limit], np.int64), None, missing)
        asking = [place for place, each in enumerate(found) if each is None]
        if asking:
            if self._index is None:
                raise ValueError("queries without passages of their own need an index")
            questions = [retrieval_question(queries[place].question) for place in asking]
            for place, hits in zip(asking, self._index.search(questions, self._limit), strict=True):
                found[place] = Found(hits.positions, hits.scores)
        return [each for each in found if each is not None]


def retrieval_question(question: str) -> str:
    """A question as the first stage is asked: KILT's slot filling without the mark between subject and relation."""
    return question.replace(_SEPARATOR, " ")


class ProvidedPassages:
    """Where the passages that queries bring lie in one version of a memory.

    `queries` gives the queries anew each time it is called. Holds a few numbers for each distinct passage named by
    text or place; passages named by passage id cost nothing, they are looked up when asked for.
    """

    def __init__(self, memory: Memory, queries: Callable[[], Iterable[Query]]) -> None:
        self._memory = memory
        self._contents: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._content_positions: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._pages: dict[str, list[tuple[int, int, int, int]]] = {}
        contents, pages = _wanted(queries())
        if len(contents) or pages:
            self._scan(contents, pages)
        if not len(contents):
            return
        # A text that is no passage here may be an article that was split: look for its id as well.
        articles = {
            candidate.id
            for group in _groups(queries(), _AT_ONCE)
            for query, resolved in zip(group, self.resolve(group), strict=True)
            for candidate, positions in zip(query.candidates or (), resolved, strict=True)
            if not positions and candidate.text is not None and candidate.id is not None
        }
        if articles - self._pages.keys():
            self._scan(np.zeros(0, np.uint64), articles - self._pages.keys())

    def check(self, queries: Iterable[Query], name: str) -> None:
        """InputError naming, with file and line, the queries of `queries` that bring a passage the memory lacks, and
        those that were to bring some and have none."""
        problems = Problems()
        where = f"version {self._memory.version} of {self._memory.location}"
        for group in _groups(queries, _AT_ONCE):
            for query, resolved in zip(group, self.resolve(group), strict=True):
                absent = [
                    candidate
                    for candidate, positions in zip(query.candidates or (), resolved, strict=True)
                    if not positions
                ]
                if query.candidates == ():
                    problems.add(query.place, "no provenance to answer from")
                if absent:
                    more = f" (nor are {len(absent) - 1} others of this query)" if len(absent) > 1 else ""
                    problems.add(query.place, f"{_named(absent[0])} is not in {where}{more}")
        problems.raise_if_any(name)

    def missing(self, queries: Iterable[Query]) -> int:
        """How many of `queries` bring a passage that the memory does not have."""
        return sum(not all(resolved) for group in _groups(queries, _AT_ONCE) for resolved in self.resolve(group))

    def resolve(self, queries: Sequence[Query]) -> list[list[list[int]]]:
        """For every candidate of every query the positions of its passages, in order; empty where there is none."""
        ids = list(
            dict.fromkeys(
                candidate.id
                for query in queries
                for candidate in query.candidates or ()
                if candidate.id is not None and is_passage_id(candidate.id)
            )
        )
        located = dict(zip(ids, self._memory.locate(ids, missing="skip").tolist(), strict=True)) if ids else {}
        return [[self._resolve(candidate, located) for candidate in query.candidates or ()] for query in queries]

    def _resolve(self, candidate: Candidate, located: dict[str, int]) -> list[int]:
        if candidate.id is not None and located.get(candidate.id, -1) >= 0:
            return [located[candidate.id]]
        if candidate.text is not None:
            for key in _content_keys(candidate):
                at = int(np.searchsorted(self._contents, key))
                if at < len(self._contents) and self._contents[at] == key and self._content_positions[at] >= 0:
                    return [int(self._content_positions[at])]
            return self._part_of(candidate.id, candidate.text)
        page = self._pages.get(candidate.wikipedia_id or candidate.id or "", [])
        first, last = candidate.start_paragraph_id, candidate.end_paragraph_id
        first = last if first is None else first
        last = first if last is None else last
        if first is None or last is None:
            return [position for *_, position in page]
        return [position for start, _, end, position in page if start <= last and end >= first]

    def _part_of(self, article: str | None, text: str) -> list[int]:
        """The passages of `article` whose words are `text`, or pieces of it: what a long record was split into."""
        page = self._pages.get(article or "", [])
        if not page:
            return []
        whole = " ".join(text.split())
        positions = [position for *_, position in page]
        texts = [" ".join(passage.text.split()) for passage in self._memory.texts(np.array(positions))]
        equal = [position for position, shown in zip(positions, texts, strict=True) if shown == whole]
        return equal[:1] or [position for position, shown in zip(positions, texts, strict=True) if shown in whole]

    def _scan(self, contents: npt.NDArray[np.uint64], pages: set[str]) -> None:
        """One pass over the catalog: where `contents` (sorted) and the passages of `pages` are."""
        positions = np.full(len(contents), -1, np.int64)
        found: defaultdict[str, list[tuple[int, int, int, int]]] = defaultdict(list)
        names = pa.array(sorted(pages), pa.string())
        for batch in self._memory.passage_table(_COLUMNS):
            if len(contents):
                hashes = _hash_numbers(batch.column("content_hash"))
                at = np.minimum(np.searchsorted(contents, hashes), len(contents) - 1)
                rows = np.flatnonzero(contents[at] == hashes)
                for target, position in zip(at[rows], self._located(batch, rows), strict=True):
                    # Equal title and text may stand in several articles: the first position, however rows are laid.
                    if positions[target] < 0 or position < positions[target]:
                        positions[target] = position
            if len(names):
                rows = np.flatnonzero(pc.is_in(batch.column("article_id"), value_set=names).to_numpy(False))
                part = batch.select(["article_id", "start_paragraph_id", "start_character", "end_paragraph_id"])
                for row, position in zip(
                    part.take(pa.array(rows)).to_pylist(), self._located(batch, rows), strict=True
                ):
                    span = (row["start_paragraph_id"], row["start_character"], row["end_paragraph_id"])
                    found[row["article_id"]].append((*span, int(position)))
        if len(contents):
            self._contents, self._content_positions = contents, positions
        self._pages |= {name: sorted(passages) for name, passages in found.items()}

    def _located(self, batch: pa.RecordBatch, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if not len(rows):
            return np.zeros(0, np.int64)
        return self._memory.locate(batch.column("passage_id").take(pa.array(rows)).to_pylist())


def _wanted(queries: Iterable[Query]) -> tuple[npt.NDArray[np.uint64], set[str]]:
    """What to look for in the catalog: content hashes, sorted and distinct, and article ids."""
    contents: list[npt.NDArray[np.uint64]] = []
    pages: set[str] = set()
    for group in _groups(queries, _AT_ONCE):
        keys: list[int] = []
        for candidate in (candidate for query in group for candidate in query.candidates or ()):
            if candidate.text is not None:
                keys.extend(_content_keys(candidate))
            elif candidate.wikipedia_id is not None:
                pages.add(candidate.wikipedia_id)
            elif candidate.id is not None:
                pages.add(candidate.id)
        contents.append(np.unique(np.array(keys, np.uint64)))
    return np.unique(np.concatenate(contents)) if contents else np.zeros(0, np.uint64), pages


def _content_keys(candidate: Candidate) -> list[int]:
    """Hashes that a passage of this title and text may have: as it is, and with white space as passages have it."""
    title, text = candidate.title or "", candidate.text or ""
    folded = "\n".join(line for line in (" ".join(line.split()) for line in text.splitlines()) if line)
    variants = dict.fromkeys([(title, text), (title.strip(), folded)])
    return [int(content_hash(*variant), 16) for variant in variants]


def _hash_numbers(column: pa.Array) -> npt.NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), ">u8").astype(np.uint64)


def _named(candidate: Candidate) -> str:
    if candidate.id is not None:
        return f"passage {candidate.id!r}"
    if candidate.wikipedia_id is not None:
        span = (candidate.start_paragraph_id, candidate.end_paragraph_id)
        paragraphs = "" if span == (None, None) else f", paragraphs {span[0]} to {span[1]}"
        return f"page {candidate.wikipedia_id!r}{paragraphs}"
    text = " ".join((candidate.text or "").split())
    return f"the passage {candidate.title or ''!r}: {text[:40]!r}…"


def _groups(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
