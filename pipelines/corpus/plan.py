"""The plan: sources into passages with tokens and ids, numbered row by row, one text shard after another.

This is the first stage of an encode or refresh job and the whole of a dry run. It streams: an article is read, cut,
tokenised and written, then forgotten; memory does not grow with the corpus. Tokenising runs in a thread of its own,
beside reading and cutting, so a tokenizer that releases the interpreter lock keeps the other core busy. The same input
gives the same rows in the same shards, byte for byte.

A refresh plans against a `Base`, the version it starts from. A passage that the base has is reported to it instead of
written, and is not tokenised either: that it is there says that it fits the window. Ids, splits and occurrence numbers
come out as in a plan of the same sources without a base. Where a part of an article cannot be used and the base has the
article, all of it is left out: the base's version of it is whole.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ... import InputError, UsageError
from ...storage.passage import SHARD_ROWS, Passage, content_hash
from . import Corpus
from .article import Article, Record, blank
from .fitting import BATCH, Finds, Fitted, Piece, Tokenise, Tokens, fit, identify, tokens_of
from .passages import DEFAULT_WORDS, PassageDraft, cut_article
from .rejects import Rejection, RejectLog

_AHEAD: Final = 2  # batches being tokenised while the next is cut
_PROGRESS_SECONDS: Final = 0.1


class TextWriter(Protocol):
    """Where the plan puts its shards; `storage.writer.SegmentWriter` is one."""

    def write_text(self, shard: int, passages: Sequence[Passage]) -> None: ...


class Records(Protocol):
    """What a plan reads: a corpus, or what a refresh makes of one."""

    @property
    def sources(self) -> Sequence[str | os.PathLike[str]]: ...

    def read(self, advance: Callable[[float], None]) -> Iterator[Record]:
        """Articles and rejections in a fixed order; `advance` is told the share of all bytes read so far (0 to 1)."""


class Base(Finds, Protocol):
    """The version a refresh starts from: the plan asks it for passages and tells it what became of each."""

    def reject(self, rejection: Rejection) -> None:
        """The sources hold a record that cannot be read as an article."""

    def meet(self, article: Article) -> None:
        """The sources hold `article`; called for each, in order, before its passages."""

    def spare(self, article: Article) -> bool:
        """A part of `article` cannot be used: whether the base has the article, which then stays there as it is."""

    def keep(self, positions: npt.NDArray[np.int64], provenance: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The sources hold the passages at `positions`; they stand at int32 [n, 4] start paragraph, start character,
        end paragraph, end character. Returns int32 [n], the tokens of each."""

    def add(self, draft: PassageDraft) -> None:
        """The sources hold a passage that the base lacks; it is written to the new segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanProgress:
    """How far a plan is: `share` of the source bytes read (0 to 1), and counts so far."""

    share: float
    articles: int
    passages: int
    tokens: int
    rejected: int


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


def plan(
    *,
    sources: Records | Sequence[str | os.PathLike[str]],
    tokenise: Tokenise,
    window: int,
    writer: TextWriter | None = None,
    base: Base | None = None,
    passage_words: int = DEFAULT_WORDS,
    format: str | None = None,
    strict: bool = False,
    may_be_empty: bool = False,
    rejects_path: str | os.PathLike[str] | None = None,
    progress: Callable[[PlanProgress], None] | None = None,
) -> PlanSummary:
    """Cut `sources` into passages and write them, shard by shard.

    Args:
        sources: a corpus, or the names of its sources; articles keep that order, and so do rows.
        tokenise: called from one thread, about a thousand passages at a time.
        window: most tokens a passage may have; longer passages are split, never truncated.
        writer: gets shard 0, 1, …, each of 1,024 passages but the last; None counts only (a dry run).
        base: what is there already; only other passages are tokenised and written. None writes all.
        passage_words: words aimed at in a passage.
        format: of sources given by name: one of `format_names()`, or None to tell it from content.
        strict: stop at the first record that cannot be used instead of setting it aside.
        may_be_empty: accept sources without a usable article, or no sources at all.
        rejects_path: JSON-lines file for records set aside; None counts them only.
        progress: called about ten times a second.

    Raises InputError for sources that cannot be read, or have no usable article at all, UsageError for settings that
    make no sense, StorageError where files cannot be written.
    """
    if passage_words < 1 or window < 1:
        raise UsageError(f"passages of {passage_words} words in a window of {window} tokens: both must be at least 1")
    begun = time.monotonic()
    reported = 0.0
    share = 0.0

    def advance(now: float) -> None:
        nonlocal share
        share = now

    with RejectLog(rejects_path, strict=strict) as rejects, ThreadPoolExecutor(1, "tokenise") as tokenising:

        def tokenise_late(pairs: Sequence[tuple[str, str]]) -> Sequence[Tokens]:
            return tokenising.submit(tokenise, pairs).result()

        rows = _Rows(writer, window, base, tokenise_late)
        pending: deque[Future[list[Fitted]]] = deque()
        corpus = sources
        if isinstance(corpus, Sequence):
            corpus = Corpus(corpus, format=format, may_be_empty=may_be_empty)
        records = corpus.read(advance)
        for batch in _batches(_drafts(records, rejects, passage_words, base), BATCH):
            pending.append(tokenising.submit(fit, batch, tokenise, window, base))
            if len(pending) > _AHEAD:
                rows.add(pending.popleft().result(), rejects)
            if progress is not None and (now := time.monotonic()) - reported >= _PROGRESS_SECONDS:
                reported = now
                progress(rows.progress(share, rejects))
        while pending:
            rows.add(pending.popleft().result(), rejects)
        rows.finish()
        if progress is not None:
            progress(rows.progress(1.0, rejects))
    if not rows.passages and not may_be_empty:
        raise no_article(corpus.sources, rejects.counts, rejects.path)
    return rows.summary(dict(sorted(rejects.counts.items())), time.monotonic() - begun)


def no_article(
    sources: Sequence[str | os.PathLike[str]], rejected: Mapping[str, int], path: str | os.PathLike[str] | None
) -> InputError:
    """The error for `sources` without a usable article; `path` is the file of their rejected records, None if none."""
    where = f"; see {os.fspath(path)}" if path is not None else ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
    return InputError(f"{', '.join(map(str, sources))}: no article can be used ({reasons or 'no records'}){where}")


def _drafts(
    records: Iterable[Record], rejects: RejectLog, words: int, base: Base | None
) -> Iterator[list[PassageDraft]]:
    """The drafts of each article."""
    for record in records:
        if isinstance(record, Rejection):
            rejects.add(record)
            if base is not None:
                base.reject(record)
        else:
            if base is not None:
                base.meet(record)
            yield cut_article(record, words)


def _batches(articles: Iterable[list[PassageDraft]], size: int) -> Iterator[list[PassageDraft]]:
    """Drafts of whole articles, `size` of them or as many more as the last article has."""
    batch: list[PassageDraft] = []
    for drafts in articles:
        batch += drafts
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


class _Rows:
    """Numbers passages, gives them their ids, hands full shards to the writer, kept ones to the base, and counts."""

    def __init__(self, writer: TextWriter | None, window: int, base: Base | None, tokenise: Tokenise) -> None:
        self._writer = writer
        self._base = base
        self._tokenise = tokenise
        self._shard: list[Passage] = []
        self._place = ""
        self._refused = ""
        self._repeats: Counter[str] = Counter()
        self._lengths = np.zeros(window + 1, np.int64)
        self.articles = self.paragraphs = self.blank_paragraphs = 0
        self.passages = self.rows = self.shards = self.split_passages = self.tokens = self.characters = 0

    def add(self, fitted: Sequence[Fitted], rejects: RejectLog) -> None:
        """Takes what became of the drafts of whole articles."""
        pieces: list[Piece] = []
        for _, group in groupby(fitted, key=lambda item: id(item.article)):
            items = list(group)
            refused = [rejection for item in items for rejection in item.rejections]
            for rejection in refused:
                self._refuse(rejection, rejects)
            if refused and self._base is not None and self._base.spare(items[0].article):
                continue
            for item in items:
                if item.split:
                    self.split_passages += len(item.pieces)
                pieces += item.pieces
        repeated = [piece for piece in pieces if self._number(piece)]
        if self._base is not None:
            self._compare(pieces, repeated, self._base)
        counts = []
        for piece in pieces:
            if piece.position < 0:
                assert piece.tokens is not None
                counts.append(len(piece.tokens))
                self._add(piece.draft, piece.passage_id, piece.tokens)
        self._count(np.array(counts, np.int64))

    def _number(self, piece: Piece) -> bool:
        """Counts a passage and gives it its id, in its article's order; whether the article repeats itself here."""
        draft, article = piece.draft, piece.draft.article
        if article.place != self._place:
            self._place = article.place
            self._repeats.clear()
            self.articles += 1
            self.paragraphs += len(article.paragraphs)
            self.blank_paragraphs += sum(map(blank, article.paragraphs))
        occurrence = self._repeats[draft.text]
        self._repeats[draft.text] = occurrence + 1
        self.passages += 1
        self.characters += len(draft.text)
        if occurrence or (not piece.passage_id and self._writer is not None):
            piece.passage_id = identify(draft, occurrence)
        return occurrence > 0

    def _compare(self, pieces: Sequence[Piece], repeated: Sequence[Piece], base: Base) -> None:
        """Tells the base which of its passages are still there; the others get tokens if they have none yet."""
        if repeated:
            found = base.find([piece.passage_id for piece in repeated]).tolist()
            for piece, position in zip(repeated, found, strict=True):
                piece.position = position
        late = [piece for piece in pieces if piece.position < 0 and piece.tokens is None]
        for piece, ids in zip(late, tokens_of(late, self._tokenise), strict=True):
            piece.tokens = ids
        kept = [piece for piece in pieces if piece.position >= 0]
        if kept:
            positions = np.array([piece.position for piece in kept], np.int64)
            self._count(base.keep(positions, np.array([piece.draft[2:] for piece in kept], np.int32)))
        for piece in pieces:
            if piece.position < 0:
                base.add(piece.draft)

    def _count(self, lengths: npt.NDArray[np.integer[Any]]) -> None:
        self.tokens += int(lengths.sum())
        self._lengths += np.bincount(lengths, minlength=len(self._lengths))

    def _refuse(self, rejection: Rejection, rejects: RejectLog) -> None:
        """A title too long for the window spoils every passage of its article; it is one rejected record."""
        if rejection.reason == "title_too_long":
            if rejection.place == self._refused:
                return
            self._refused = rejection.place
        rejects.add(rejection)

    def _add(self, draft: PassageDraft, identifier: str, ids: Tokens) -> None:
        article, text = draft.article, draft.text
        self.rows += 1
        if self._writer is None:
            return
        self._shard.append(
            Passage(
                passage_id=identifier,
                article_id=article.article_id,
                title=article.title,
                text=text,
                start_paragraph_id=draft.start_paragraph_id,
                start_character=draft.start_character,
                end_paragraph_id=draft.end_paragraph_id,
                end_character=draft.end_character,
                content_hash=content_hash(article.title, text),
                tokens=ids,
            )
        )
        if len(self._shard) == SHARD_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.write_text(self.shards, self._shard)
        self.shards += 1
        self._shard = []

    def finish(self) -> None:
        if self._shard:
            self._flush()

    def progress(self, share: float, rejects: RejectLog) -> PlanProgress:
        return PlanProgress(
            share=min(share, 1.0),
            articles=self.articles,
            passages=self.passages,
            tokens=self.tokens,
            rejected=sum(rejects.counts.values()),
        )

    def summary(self, rejected: dict[str, int], seconds: float) -> PlanSummary:
        return PlanSummary(
            articles=self.articles,
            paragraphs=self.paragraphs,
            blank_paragraphs=self.blank_paragraphs,
            passages=self.passages,
            shards=-(-self.rows // SHARD_ROWS),
            split_passages=self.split_passages,
            tokens=self.tokens,
            characters=self.characters,
            lengths=self._lengths.tolist(),
            rejected=rejected,
            seconds=seconds,
        )
