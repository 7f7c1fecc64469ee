"""What changes between two versions of a memory: found while a refresh is planned, kept in its ledger, put into effect.

Everything is said in row numbers: a version's segments, in the order of their ids, one after another, dead rows
included. One bit a row says which die; a row whose passage only moved (same text, other paragraph ids or characters)
is listed with its new place. So a refresh of 22 million passages holds a few dozen megabytes and what changed, whatever
the size of the corpus, and a commit reads and rewrites the catalog file by file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ... import DamageError
from ...storage.catalog_files import CATALOG_SCHEMA, MAX_FILE_ROWS, read_catalog_file
from ...storage.files import damage, read_regular, sha256_bytes, translated, write_atomic
from ...storage.idmap import segment_bases
from ...storage.manifest import CatalogFile
from ...storage.memory import Memory
from ..corpus import Article, Rejection
from ..corpus.passages import PassageDraft
from .feed import id_hash

PROVENANCE: Final = ("start_paragraph_id", "start_character", "end_paragraph_id", "end_character")
_PLACE: Final = ("segment", "row")
_SPAN: Final = 1 << 20  # positions handled at once

Mask = npt.NDArray[np.bool_]


class RowNumbers:
    """Numbers the rows of all segments of one version, 0 … `count` - 1, live or not."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._bases = segment_bases({name: entry.rows for name, entry in memory.segments.items()})
        self._firsts = np.array([first for first, _ in self._bases.values()], np.int64)
        self.count = sum(rows for _, rows in self._bases.values())

    def of_positions(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """int64 [n]: row number of the passage at each position."""
        segment, row = self._memory.rows(positions)
        return self._firsts[segment] + row if len(positions) else np.zeros(0, np.int64)

    def of_batch(self, batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        """int64 [n]: row number of each catalog row, from its columns `segment` and `row`."""
        segment = batch.column("segment").dictionary_encode()
        firsts = np.array([self._bases[name][0] for name in segment.dictionary.to_pylist()], np.int64)
        row: npt.NDArray[np.int64] = batch.column("row").to_numpy().astype(np.int64)
        return firsts[segment.indices.to_numpy()] + row if len(row) else row

    def marked(self, positions: Mask, value: bool = True) -> Mask:
        """bool [count]: the rows of those passages whose entry in `positions`, bool [passages], is `value`."""
        rows = np.zeros(self.count, np.bool_)
        for start in range(0, len(positions), _SPAN):
            some = start + np.flatnonzero(positions[start : start + _SPAN] == value)
            rows[self.of_positions(some)] = True
        return rows


@dataclass(frozen=True)
class Changes:
    """What a version loses and what moves in it.

    Attributes:
        dead: bool [rows of all segments]: live rows that are to go.
        moved: int64 [m], ascending: rows whose passage stands elsewhere in its article now.
        places: int32 [m, 4]: where it stands, in the order of PROVENANCE.
    """

    dead: Mask
    moved: npt.NDArray[np.int64]
    places: npt.NDArray[np.int32]

    @property
    def removed(self) -> int:
        """Number of passages that go."""
        return int(np.count_nonzero(self.dead))

    def save(self, path: Path) -> str:
        """Writes the changes to `path`, whole or not at all; returns the file's SHA-256."""
        content: bytes = save_tensors(
            {
                "dead": np.packbits(self.dead),
                "rows": np.array([len(self.dead)], np.int64),
                "moved": self.moved,
                "places": np.ascontiguousarray(self.places),
            }
        )
        write_atomic(path, content)
        return sha256_bytes(content)

    @classmethod
    def load(cls, path: Path, sha256: str) -> Changes:
        """The changes saved at `path`, whose SHA-256 must be `sha256`; raises DamageError."""
        remedy = f"delete {path.parent} and run the command again"
        with translated(path, damage(path, remedy)):
            content = read_regular(path)
            if sha256_bytes(content) != sha256:
                raise DamageError(f"{path}: not what the plan wrote; {remedy}")
            held = load_tensors(content)
            dead = np.unpackbits(held["dead"], count=int(held["rows"][0])).astype(np.bool_)
        return cls(dead, held["moved"], held["places"])


class Comparison:
    """Follows a plan (it is the plan's `Base`) and finds what its sources change in `memory`.

    With `partial`, passages of articles that the sources do not hold stay. Holds a byte a passage, twenty bytes for
    each passage that moved, and the ids of articles that have something new or whose record was rejected (with
    `partial`, of all articles met).
    """

    def __init__(self, memory: Memory, *, partial: bool = False, examples: int = 5) -> None:
        self.memory = memory
        self.partial = partial
        self.kept_tokens = 0
        """Tokens of the passages that the sources and the base both hold."""
        self.added = 0
        """Passages that the base lacks."""
        self.renewed: set[str] = set()
        """Ids of articles that have a passage which the base lacks."""
        self.met: set[str] = set()
        """Ids of all articles of the sources; filled with `partial` only."""
        self.rejected: set[str] = set()
        """Ids of articles that have a record, or a part of one, that cannot be used."""
        self.unidentified = 0
        """Rejected records whose article cannot be told."""
        self.added_examples: list[tuple[str, str, str]] = []
        """(article id, title, text) of the first passages that the base lacks."""
        self._examples = examples
        self._seen = np.zeros(memory.passages, np.bool_)
        self._moved: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
        self._places: list[npt.NDArray[np.int32]] = [np.zeros((0, 4), np.int32)]

    # What the plan calls.

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        return self.memory.locate(ids, missing="skip")

    def meet(self, article: Article) -> None:
        if self.partial:
            self.met.add(article.article_id)

    def reject(self, rejection: Rejection) -> None:
        if rejection.reason == "duplicate_id":
            return  # the article was met before
        if rejection.article_id:
            self.rejected.add(rejection.article_id)
        else:
            self.unidentified += 1

    def spare(self, article: Article) -> bool:
        held = id_hash(article.article_id) in self._article_hashes
        if held:
            self.rejected.add(article.article_id)
            self.met.discard(article.article_id)
        return held

    @cached_property
    def _article_hashes(self) -> frozenset[int]:
        """Made when the first article is asked for, which is rare."""
        batches = self.memory.passage_table(("article_id",))
        return frozenset(
            id_hash(name) for batch in batches for name in pc.unique(batch.column("article_id")).to_pylist()
        )

    def keep(self, positions: npt.NDArray[np.int64], provenance: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        self._seen[positions] = True
        elsewhere = (self.memory.provenance(positions) != provenance).any(axis=1)
        if elsewhere.any():
            self._moved.append(positions[elsewhere])
            self._places.append(provenance[elsewhere])
        counts = self.memory.token_counts(positions)
        self.kept_tokens += int(counts.sum())
        return counts

    def add(self, draft: PassageDraft) -> None:
        self.added += 1
        self.renewed.add(draft.article.article_id)
        if len(self.added_examples) < self._examples:
            self.added_examples.append((draft.article.article_id, draft.article.title, draft.text))

    # What comes of it.

    def changes(self, deleted: Iterable[str] = ()) -> Changes:
        """The changes, once the plan has ended; `deleted` are ids of articles to drop besides (with `partial`)."""
        numbers = RowNumbers(self.memory)
        if self.partial:
            seen = numbers.marked(self._seen)
            gone = pa.array(sorted(self.met.union(deleted)), pa.string())
            dead = np.zeros(numbers.count, np.bool_)
            for batch in self.memory.passage_table(("article_id", *_PLACE)):
                dead[numbers.of_batch(batch.filter(pc.is_in(batch.column("article_id"), value_set=gone)))] = True
            dead &= ~seen
        else:
            dead = numbers.marked(self._seen, False)
        moved = numbers.of_positions(np.concatenate(self._moved))
        order = np.argsort(moved)
        return Changes(dead, moved[order], np.concatenate(self._places)[order])


def first_positions(memory: Memory, rows: Mask, most: int) -> npt.NDArray[np.int64]:
    """int64 [at most `most`]: the first positions whose row is marked in `rows`."""
    numbers = RowNumbers(memory)
    found = np.zeros(0, np.int64)
    for start in range(0, memory.passages, _SPAN):
        span = np.arange(start, min(start + _SPAN, memory.passages))
        found = np.concatenate([found, span[rows[numbers.of_positions(span)]]])[:most]
        if len(found) == most:
            break
    return found


@dataclass(frozen=True, kw_only=True)
class ArticleCounts:
    """Articles of two versions: only in the newer, in both with other passages, only in the older, and the rest."""

    added: int
    changed: int
    removed: int
    kept: int


def count_articles(memory: Memory, dead: Mask, renewed: pa.Array) -> ArticleCounts:
    """Counts articles that come, change and go when `memory` loses the rows `dead` and articles `renewed` get new ones.

    Two passes over the catalog's article ids; memory grows with the articles that are touched, not with the others.
    """
    return ArticlesTouched.by(memory, dead, renewed).counts(memory)


@dataclass(frozen=True)
class ArticlesTouched:
    """Ids, each once, of articles that lose passages, get new ones (`renewed`), or have others that stay."""

    losing: pa.Array
    renewed: pa.Array
    surviving: pa.Array

    @classmethod
    def by(cls, memory: Memory, dead: Mask, renewed: pa.Array) -> ArticlesTouched:
        """What loses the rows `dead`; of the surviving only those that are in `losing` or `renewed`."""
        losing = articles_with(memory, dead)
        touched = pc.unique(pa.concat_arrays([losing, renewed]))
        surviving = articles_with(memory, ~dead, among=touched) if len(touched) else touched
        return cls(losing, renewed, surviving)

    @property
    def gone(self) -> pa.Array:
        """Articles of which nothing is left."""
        return without(self.losing, pc.unique(pa.concat_arrays([self.surviving, self.renewed])))

    def counts(self, memory: Memory) -> ArticleCounts:
        """How many of `memory`'s articles come, change, go and stay."""
        known = pc.unique(pa.concat_arrays([self.losing, self.surviving]))
        added, removed = len(without(self.renewed, known)), len(self.gone)
        changed = len(pc.unique(pa.concat_arrays([self.losing, self.renewed]))) - added - removed
        return ArticleCounts(added=added, changed=changed, removed=removed, kept=memory.articles - changed - removed)


def without(ids: pa.Array, others: pa.Array) -> pa.Array:
    """Those of `ids` that are not among `others`, in their order."""
    return ids.filter(pc.invert(pc.is_in(ids, value_set=others)))


def articles_with(memory: Memory, rows: Mask | None, among: pa.Array | None = None) -> pa.Array:
    """Ids, each once, of the articles that own a live row marked in `rows` (None: any); only of `among` where given."""
    numbers = RowNumbers(memory)
    found = [pa.array([], pa.string())]
    for batch in memory.passage_table(("article_id", *_PLACE)):
        articles = batch.column("article_id")
        if rows is not None:
            articles = articles.filter(pa.array(rows[numbers.of_batch(batch)]))
        if among is not None:
            articles = articles.filter(pc.is_in(articles, value_set=among))
        found.append(pc.unique(articles))
    return pc.unique(pa.concat_arrays(found))


def files_to_replace(memory: Memory, changes: Changes, added: int) -> list[CatalogFile]:
    """The catalog files that hold a dead or a moved row, and small ones that are merged with what is written anyway.

    A file joins while all that is written stays within one file and it adds no more than is written already. So a
    memory refreshed every day keeps a few files, and rows are rewritten a logarithmic number of times.
    """
    touched = changes.dead.copy()
    touched[changes.moved] = True
    numbers = RowNumbers(memory)
    replaced, others = [], []
    directory = memory.catalog.directory
    written = added - changes.removed
    for file in memory.manifest.files:
        batches = read_catalog_file(directory, file, _PLACE) if touched.any() else ()
        if any(touched[numbers.of_batch(batch)].any() for batch in batches):
            replaced.append(file)
            written += file.rows
        else:
            others.append(file)
    for file in sorted(others, key=lambda file: file.rows):
        if file.rows > written or written + file.rows > MAX_FILE_ROWS:
            break
        replaced.append(file)
        written += file.rows
    return sorted(replaced, key=lambda file: file.name)


def surviving_rows(memory: Memory, changes: Changes, files: Sequence[CatalogFile]) -> Iterator[pa.Table]:
    """The live rows of `files` that stay, batch by batch, moved ones with their new place."""
    numbers = RowNumbers(memory)
    elsewhere = np.zeros(len(changes.dead), np.bool_)
    elsewhere[changes.moved] = True
    for file in files:
        for batch in read_catalog_file(memory.catalog.directory, file):
            rows = numbers.of_batch(batch)
            if elsewhere[rows].any():
                batch = _moved(batch, rows, elsewhere[rows], changes)
            stays = ~changes.dead[rows]
            yield pa.Table.from_batches([batch if stays.all() else batch.filter(pa.array(stays))])


def _moved(batch: pa.RecordBatch, rows: npt.NDArray[np.int64], which: Mask, changes: Changes) -> pa.RecordBatch:
    places = changes.places[np.searchsorted(changes.moved, rows[which])]
    columns: list[Any] = list(batch.columns)
    for number, name in enumerate(PROVENANCE):
        values = batch.column(name).to_numpy(zero_copy_only=False).copy()
        values[which] = places[:, number]
        columns[CATALOG_SCHEMA.get_field_index(name)] = pa.array(values, pa.int32())
    return pa.RecordBatch.from_arrays(columns, schema=CATALOG_SCHEMA)
