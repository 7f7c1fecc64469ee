"""Planning one range: its records into passages with tokens and ids, row after row.

It streams: an article is read, cut, tokenised and written, then forgotten; memory does not grow with the range.
Tokenising runs in a thread of its own, beside reading and cutting, so a tokenizer that releases the interpreter lock
keeps another core busy. What a range gives depends on its records alone, never on where the ranges before it end.

A refresh plans against a `Base`, the version it starts from. A passage that the base has is reported to it instead of
written, and is not tokenised either: that it is there says that it fits the window. Ids, splits and occurrence numbers
come out as in a plan of the same sources without a base. Where a part of an article cannot be used and the base has the
article, all of it is left out: the base's version of it is whole.
"""

from __future__ import annotations

import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ... import UsageError
from ...storage.passage import SHARD_ROWS, Passage, content_hash
from ..corpus.article import Article, Record, blank
from ..corpus.fitting import BATCH, Finds, Fitted, Piece, Tokenise, Tokens, fit, identify, tokens_of
from ..corpus.passages import DEFAULT_WORDS, PassageDraft, cut_article
from ..corpus.ranges import SourceRange
from ..corpus.rejects import Rejection
from .plan_summary import PlanCounts
from .record_selection import Selection

AHEAD: Final = 2
"""Batches being tokenised while the next is cut."""

_PROGRESS_SECONDS: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """How articles become passages.

    Attributes:
        window: most tokens a passage may have; longer passages are split, never truncated.
        words: words aimed at in a passage.
        strict: the first record that cannot be used stops the job, instead of being set aside.
    """

    window: int
    words: int = DEFAULT_WORDS
    strict: bool = False

    def __post_init__(self) -> None:
        if self.words < 1 or self.window < 1:
            raise UsageError(
                f"passages of {self.words} words in a window of {self.window} tokens: both must be at least 1"
            )


class RangeOutput(Protocol):
    """Where the plan of a range is written."""

    def write(self, passages: Sequence[Passage]) -> None:
        """The next 1,024 passages, fewer only at the end."""

    def reject(self, rejection: Rejection, *, articles: int, late: bool) -> None:
        """A record is set aside; see `reject_order` for `articles` and `late`."""


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

    def arrays(self) -> dict[str, pa.Array]:
        """What it was told, once the range is planned."""


@dataclass(frozen=True, kw_only=True)
class RangePlan:
    """What planning a range gave, apart from passages and rejected records.

    Attributes:
        counts: of the range.
        arrays: `drafts`, passages that each article was cut into, uint32; what the selection of records and the base
            have to say, under their own names.
        complete: whether it was planned to its end; a strict plan stops soon after the first rejected record.
    """

    counts: PlanCounts
    arrays: Mapping[str, pa.Array] = field(default_factory=dict)
    complete: bool = True


def plan_range(
    source: SourceRange,
    *,
    selection: Selection,
    settings: PlanSettings,
    tokenise: Tokenise,
    output: RangeOutput | None = None,
    base: Base | None = None,
    progress: Callable[[float, PlanCounts], None] | None = None,
) -> RangePlan:
    """Cuts a range into passages and writes them.

    Args:
        source: the range.
        selection: which of its records count.
        settings: how they become passages.
        tokenise: called from one thread, about a thousand passages at a time.
        output: gets passages and rejected records; None counts only (a dry run).
        base: what is there already; only other passages are tokenised and written. None writes all.
        progress: told about ten times a second the share read (0 to 1) and the counts so far.

    Raises InputError for sources that cannot be read, StorageError where files cannot be written.
    """
    reported, share = 0.0, 0.0
    counts = PlanCounts.of_window(settings.window)

    def advance(now: float) -> None:
        nonlocal share
        share = now

    def skip(kind: str) -> None:
        counts.left_out[kind] += 1

    with ThreadPoolExecutor(1, "tokenise") as tokenising:

        def tokenise_late(pairs: Sequence[tuple[str, str]]) -> Sequence[Tokens]:
            return tokenising.submit(tokenise, pairs).result()

        rejects = _Rejects(counts, output, base)
        rows = _Rows(counts, output, base, tokenise_late, rejects)
        drafts = _Drafts(selection.select(source.read(advance, skip)), rejects, settings.words, base)
        pending: deque[Future[list[Fitted]]] = deque()
        batches_left = AHEAD + 2
        for batch in _batches(drafts, BATCH):
            pending.append(tokenising.submit(fit, batch, tokenise, settings.window, base))
            if len(pending) > AHEAD:
                rows.add(pending.popleft().result())
            if progress is not None and (now := time.monotonic()) - reported >= _PROGRESS_SECONDS:
                reported = now
                progress(min(share, 1.0), counts)
            if settings.strict and counts.rejected:
                # Which record is the first is told once these batches are planned (`reject_order`).
                batches_left -= 1
                if not batches_left:
                    break
        while pending:
            rows.add(pending.popleft().result())
        rows.finish()
    counts.lines = source.lines
    counts.superseded = selection.superseded
    arrays = {"drafts": pa.array(np.frombuffer(drafts.counts, np.uint32)), **selection.arrays()}
    if base is not None:
        arrays |= base.arrays()
    return RangePlan(counts=counts, arrays=arrays, complete=batches_left > 0)


class _Rejects:
    """Counts rejections and passes them on. A title too long for the window spoils every passage of its article; it is
    one rejected record."""

    def __init__(self, counts: PlanCounts, output: RangeOutput | None, base: Base | None) -> None:
        self._counts, self._output, self._base = counts, output, base
        self._refused = ""

    def record(self, rejection: Rejection, articles: int) -> None:
        """A record that is no article, after so many articles."""
        self._add(rejection, articles, late=False)
        if self._base is not None:
            self._base.reject(rejection)

    def passage(self, rejection: Rejection, article: int) -> None:
        """A passage of an article, the article's number in the range."""
        if rejection.reason == "title_too_long":
            if rejection.place == self._refused:
                return
            self._refused = rejection.place
        self._add(rejection, article, late=True)

    def _add(self, rejection: Rejection, articles: int, *, late: bool) -> None:
        self._counts.rejected[rejection.reason] += 1
        if self._output is not None:
            self._output.reject(rejection, articles=articles, late=late)


class _Drafts:
    """The drafts of each article; `counts` has how many each gave, uint32."""

    def __init__(self, records: Iterable[Record], rejects: _Rejects, words: int, base: Base | None) -> None:
        self._records, self._rejects, self._words, self._base = records, rejects, words, base
        self.counts = array("I")

    def __iter__(self) -> Iterator[list[PassageDraft]]:
        for record in self._records:
            if isinstance(record, Rejection):
                self._rejects.record(record, len(self.counts))
            else:
                if self._base is not None:
                    self._base.meet(record)
                drafts = cut_article(record, self._words)
                self.counts.append(len(drafts))
                yield drafts


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
    """Gives passages their ids, hands them to the output, kept ones to the base, and counts."""

    def __init__(
        self,
        counts: PlanCounts,
        output: RangeOutput | None,
        base: Base | None,
        tokenise: Tokenise,
        rejects: _Rejects,
    ) -> None:
        self._counts = counts
        self._output = output
        self._base = base
        self._tokenise = tokenise
        self._rejects = rejects
        self._passages: list[Passage] = []
        self._place = ""
        self._repeats: Counter[str] = Counter()
        self._articles = 0

    def add(self, fitted: Sequence[Fitted]) -> None:
        """Takes what became of the drafts of whole articles."""
        pieces: list[Piece] = []
        for _, group in groupby(fitted, key=lambda item: id(item.article)):
            items = list(group)
            refused = [rejection for item in items for rejection in item.rejections]
            for rejection in refused:
                self._rejects.passage(rejection, self._articles)
            self._articles += 1
            if refused and self._base is not None and self._base.spare(items[0].article):
                continue
            for item in items:
                if item.split:
                    self._counts.split_passages += len(item.pieces)
                pieces += item.pieces
        repeated = [piece for piece in pieces if self._number(piece)]
        if self._base is not None:
            self._compare(pieces, repeated, self._base)
        lengths = []
        for piece in pieces:
            if piece.position < 0:
                assert piece.tokens is not None
                lengths.append(len(piece.tokens))
                self._write(piece.draft, piece.passage_id, piece.tokens)
        self._count(np.array(lengths, np.int64))

    def finish(self) -> None:
        """Writes what is left."""
        if self._passages and self._output is not None:
            self._output.write(self._passages)

    def _number(self, piece: Piece) -> bool:
        """Counts a passage and gives it its id, in its article's order; whether the article repeats itself here."""
        draft, article, counts = piece.draft, piece.draft.article, self._counts
        if article.place != self._place:
            self._place = article.place
            self._repeats.clear()
            counts.articles += 1
            counts.paragraphs += len(article.paragraphs)
            counts.blank_paragraphs += sum(map(blank, article.paragraphs))
        occurrence = self._repeats[draft.text]
        self._repeats[draft.text] = occurrence + 1
        counts.passages += 1
        counts.characters += len(draft.text)
        if occurrence or (not piece.passage_id and self._output is not None):
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
        self._counts.tokens += int(lengths.sum())
        self._counts.lengths += np.bincount(lengths, minlength=len(self._counts.lengths))

    def _write(self, draft: PassageDraft, identifier: str, ids: Tokens) -> None:
        article, text = draft.article, draft.text
        self._counts.rows += 1
        if self._output is None:
            return
        self._passages.append(
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
        if len(self._passages) == SHARD_ROWS:
            self._output.write(self._passages)
            self._passages = []
