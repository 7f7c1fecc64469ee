"""Passages made to fit the encoder's window: those that overflow it are cut further, and refused where that fails.

A passage that a refresh's base has is not tokenised: that it is there says that it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from .article import Article
from .passages import PassageDraft, passage_id, split_draft
from .rejects import Rejection, snippet

Tokens = npt.NDArray[np.int32]
Tokenise = Callable[[Sequence[tuple[str, str]]], Sequence[Tokens]]
"""(title, text) pairs -> the encoder's exact input of each, int32 [n], special tokens included, not truncated."""

BATCH: Final = 1024
"""Passages tokenised at once."""


class Finds(Protocol):
    """Where passages may be already."""

    def find(self, ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """int64 [n] positions of passage ids, -1 for those it lacks. Called from two threads."""


class Piece:
    """A passage on its way: `tokens` None while nobody needed them, id and position in the base once known."""

    __slots__ = ("draft", "passage_id", "position", "tokens")

    def __init__(self, draft: PassageDraft, tokens: Tokens | None, passage_id: str, position: int) -> None:
        self.draft = draft
        self.tokens = tokens
        self.passage_id = passage_id
        self.position = position


class Fitted:
    """What became of one draft of `article`: passages that fit, or why there are none."""

    __slots__ = ("article", "pieces", "rejections", "split")

    def __init__(self, article: Article, pieces: list[Piece], rejections: list[Rejection], split: bool) -> None:
        self.article = article
        self.pieces = pieces
        self.rejections = rejections
        self.split = split


def fit(drafts: Sequence[PassageDraft], tokenise: Tokenise, window: int, base: Finds | None) -> list[Fitted]:
    """Drafts as passages that fit the window, cut where they overflow it; those that the base has need no tokens.

    A text that the base has under this article and title fitted then, so it fits now: whichever repetition in the
    article it is, the first has the lowest number and is there too.
    """
    pieces = [Piece(draft, None, "", -1) for draft in drafts]
    if base is not None:
        for piece in pieces:
            piece.passage_id = identify(piece.draft, 0)
        for piece, position in zip(pieces, base.find([p.passage_id for p in pieces]).tolist(), strict=True):
            piece.position = position
    fresh = [piece for piece in pieces if piece.position < 0]
    for piece, ids in zip(fresh, tokens_of(fresh, tokenise), strict=True):
        piece.tokens = ids
    return [
        Fitted(piece.draft.article, [piece], [], False)
        if piece.tokens is None or len(piece.tokens) <= window
        else _fit_long(piece.draft, len(piece.tokens), tokenise, window, base)
        for piece in pieces
    ]


def _fit_long(draft: PassageDraft, length: int, tokenise: Tokenise, window: int, base: Finds | None) -> Fitted:
    title = draft.article.title
    frame = len(tokenise([(title, "")])[0])
    if frame >= window:
        detail = f"the title alone takes {frame} tokens of a window of {window}"
        return Fitted(draft.article, [], [_refusal(draft, "title_too_long", detail, title)], True)
    parts = split_draft(draft, max(2, -(-(length - frame) // (window - frame))))
    if len(parts) == 1:
        detail = f"a single character takes {length} tokens with its title, in a window of {window}"
        return Fitted(draft.article, [], [_refusal(draft, "character_too_long", detail, draft.text)], True)
    pieces: list[Piece] = []
    rejections: list[Rejection] = []
    for part in fit(parts, tokenise, window, base):
        pieces += part.pieces
        rejections += part.rejections
    return Fitted(draft.article, pieces, rejections, True)


def _refusal(draft: PassageDraft, reason: str, detail: str, shown: str) -> Rejection:
    article = draft.article
    return Rejection(article.place, reason, detail, snippet(shown), article.article_id)


def tokens_of(pieces: Sequence[Piece], tokenise: Tokenise) -> list[Tokens]:
    """The tokens of each piece, int32 [n], a batch at a time."""
    pairs = [(piece.draft.article.title, piece.draft.text) for piece in pieces]
    return [ids for start in range(0, len(pairs), BATCH) for ids in tokenise(pairs[start : start + BATCH])]


def identify(draft: PassageDraft, occurrence: int) -> str:
    """The passage's id, were it the repetition `occurrence` of its text in its article."""
    return passage_id(draft.article.article_id, draft.article.title, draft.text, occurrence)
