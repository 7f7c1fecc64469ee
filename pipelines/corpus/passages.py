"""Passages: articles cut into pieces of about a hundred words, so that an edit stays local.

What a passage's text is. Each paragraph is shown without KILT's mark-up (`Section::::Plot.:Part one.` reads "Plot.
Part one.", `BULLET::::- item` reads "- item"), with runs of white space folded to one space; the paragraphs a passage
touches are its lines. A heading of at most 30 words never ends a passage: it belongs to what follows. Character
offsets count in the original paragraph, mark-up included, so KILT's provenance holds. `reassemble` gives the
paragraphs back.

Where passages end. The places where an article may be cut are, best first, before a heading, between paragraphs,
after a sentence, between words (only in sentences longer than a passage), and inside a run of more than 64 characters
without a space. Greedy packing from the article's start would move every later boundary when one sentence is added.
Instead a place is an *anchor* when no better place lies within one passage length (in words) on either side, places
of one kind being ordered by a hash of the text around them. Whether a place is an anchor depends on its surroundings
alone, anchors are more than a passage apart, and between two of them passages are laid out to be near the wanted
length and to end at good places. An edit therefore changes the passages between the anchors around it and no others.

Passages that overflow the encoder's window are cut further by `split_draft`, never truncated.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from math import inf
from typing import Final, NamedTuple, Protocol

from .article import BULLET, HEADING, Article

DEFAULT_WORDS: Final = 100
_HEADING_WORDS: Final = 30
_WHOLE_WORDS: Final = 1000  # a row of a file cut by others is kept whole up to here
_LONG_RUN: Final = 64  # characters without a space beyond which a run may be cut inside
_MAXIMUM: Final = 1.3  # of the wanted words

# Kinds of places to cut, worst first.
_INSIDE, _WORD, _SENTENCE, _PARAGRAPH, _SECTION = range(5)
# What a cut costs in squared words of deviation, as a share of the squared wanted length.
_PENALTY: Final = (2.0, 0.6, 0.1, 0.0, 0.0)

_SENTENCE_END: Final = re.compile(
    r"[.!?…。！？｡]"
    r"(?:(?<=[。！？｡])[」』”’）]*"
    r"|(?<![\s(.][A-Z]\.)(?<!\b(?:Mr|Dr|St|Jr|Sr|vs|No|Mt|Lt)\.)(?<!\b(?:Mrs|Col|Gen|Rev|Sgt|Hon)\.)"
    r"[\"'”’»)\]]*(?=\s+[\"'“‘«(\[]*[^\sa-z]))"
)
# Scripts written without spaces: Thai to Khmer, kana, Han.
_UNSPACED: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_RUN: Final = re.compile(r"\S+")
_NUMBER: Final = struct.Struct("<Q")


class PassageDraft(NamedTuple):
    """A passage before it has tokens and an id. `article` is the article it was cut from.

    `text` is what readers and the encoder see. It begins at character `start_character` of paragraph
    `start_paragraph_id` of the original article and ends before `end_character` of `end_paragraph_id`.
    """

    article: Article
    text: str
    start_paragraph_id: int
    start_character: int
    end_paragraph_id: int
    end_character: int


class Spanned(Protocol):
    """What `reassemble` needs of a passage; drafts and stored passages both have it."""

    @property
    def text(self) -> str: ...
    @property
    def start_paragraph_id(self) -> int: ...
    @property
    def start_character(self) -> int: ...
    @property
    def end_paragraph_id(self) -> int: ...
    @property
    def end_character(self) -> int: ...


class _Unit(NamedTuple):
    """A piece that is never cut (save by the window): where it starts and ends, words, and the kind of place after it.

    Paragraphs are indices into `Article.paragraphs`.
    """

    start: tuple[int, int]
    end: tuple[int, int]
    words: int
    after: int


def display(paragraph: str) -> str:
    """A paragraph as it is shown, mark-up and NULs blanked with spaces: of the same length, so that offsets hold."""
    if paragraph.startswith(HEADING):
        paragraph = " " * len(HEADING) + paragraph[len(HEADING) :].replace(".:", ". ")
    elif paragraph.startswith(BULLET):
        paragraph = " " * len(BULLET) + paragraph[len(BULLET) :]
    return paragraph.replace("\x00", " ")


def readable(paragraph: str) -> str:
    """A paragraph's text as passages hold it: `display` with white space folded."""
    return " ".join(display(paragraph).split())


def count_words(text: str) -> int:
    """Words in a text. Long runs without spaces count a word for 8 characters, for 2 in scripts that use no spaces."""
    return _count_words(text, len(text.split()))


def _count_words(text: str, words: int, spaced: bool = False) -> int:
    """The same, for a text that white space parts in `words`. `spaced`: no character in it is of an unspaced script."""
    unspaced = 0 if spaced or _is_spaced(text) else len(_UNSPACED.findall(text))
    if not unspaced and len(text) <= 12 * words:
        return words
    return max(words, unspaced // 2 + (len(text) - unspaced) // 8)


def _is_spaced(text: str) -> bool:
    return text.isascii() or not _UNSPACED.search(text)


def cut_article(article: Article, words: int = DEFAULT_WORDS) -> list[PassageDraft]:
    """The passages of one article, in order, of about `words` words (at most 1.3 times that).

    Together they cover every character of the article but white space and mark-up; blank paragraphs hold none, and an
    article of nothing else has none. An
    article cut by its source (`article.whole`) is one passage unless it has over a thousand words.
    """
    shown = [display(p) for p in article.paragraphs]
    limit = int(words * _MAXIMUM)
    if sum(map(len, shown)) <= 12 * max(limit, _WHOLE_WORDS):
        split = [p.split() for p in shown]
        total = sum(map(_count_words, shown, map(len, split)))
        filled = [i for i, parts in enumerate(split) if parts]
        if filled and (total <= limit or (article.whole and total <= _WHOLE_WORDS)):
            first, last = filled[0], filled[-1]
            text = "\n".join([" ".join(parts) for parts in split[first : last + 1]])
            start, end = _lead(shown[first]), len(shown[last].rstrip())
            offset = article.first_paragraph
            return [PassageDraft(article, text, first + offset, start, last + offset, end)]
    units = _units(article, shown, words)
    if not units:
        return []
    edges = [0, *_anchors(units, shown, words), len(units)]
    drafts: list[PassageDraft] = []
    for begin, stop in pairwise(edges):
        cuts = _layout(units, begin, stop, words, limit)
        drafts += [_draft(article, shown, units[i].start, units[j - 1].end) for i, j in pairwise(cuts)]
    return drafts


def split_draft(draft: PassageDraft, parts: int) -> list[PassageDraft]:
    """Cut a passage in about `parts` equal pieces, at sentence ends, else between words, else between characters.

    Returns the passage itself, alone, when it is a single character. For passages that overflow the window.
    """
    article, first = draft.article, draft.article.first_paragraph
    begin, stop = draft.start_paragraph_id - first, draft.end_paragraph_id - first
    whole = {i: display(article.paragraphs[i]) for i in range(begin, stop + 1)}
    shown = list(whole.values())
    shown[-1] = shown[-1][: draft.end_character]
    shown[0] = shown[0][draft.start_character :]
    starts = [0, *accumulate(len(p) + 1 for p in shown)][:-1]
    flat = "\n".join(shown)

    def origin(at: int) -> tuple[int, int]:
        paragraph = bisect_right(starts, at) - 1
        return begin + paragraph, at - starts[paragraph] + (draft.start_character if paragraph == 0 else 0)

    cuts = [0]
    for part in range(1, parts):
        cut = _near(flat, len(flat) * part // parts, len(flat) // (2 * parts))
        if cut > cuts[-1]:
            cuts.append(cut)
    cuts.append(len(flat))
    pieces: list[PassageDraft] = []
    for low, high in pairwise(cuts):
        piece = flat[low:high]
        if not piece or piece.isspace():
            continue
        start, end = low + _lead(piece), low + len(piece.rstrip())
        (p, c), (q, d) = origin(start), origin(end - 1)
        pieces.append(_draft(article, whole, (p, c), (q, d + 1)))
    return pieces


def reassemble(passages: Iterable[Spanned]) -> dict[int, str]:
    """Paragraph id -> text, recovered from the passages of one article, in any order.

    Equals `readable` of each original paragraph that is not blank. Raises ValueError where passages overlap or a
    passage's lines are not its paragraphs.
    """
    paragraphs: dict[int, str] = {}
    last = (-1, 0)
    for passage in sorted(passages, key=lambda p: (p.start_paragraph_id, p.start_character)):
        start = (passage.start_paragraph_id, passage.start_character)
        lines = passage.text.split("\n")
        if start < last or len(lines) != passage.end_paragraph_id - passage.start_paragraph_id + 1:
            raise ValueError(f"the passage at paragraph {start[0]}, character {start[1]} does not fit the one before")
        for paragraph, line in enumerate(lines, start[0]):
            if paragraph in paragraphs:
                paragraphs[paragraph] += line if start == last else f" {line}"
            elif line:
                paragraphs[paragraph] = line
        last = (passage.end_paragraph_id, passage.end_character)
    return paragraphs


def passage_id(article_id: str, title: str, text: str, occurrence: int = 0) -> str:
    """32 hex digits: BLAKE2b over the three texts, each with its length, and which repetition in the article it is."""
    article, heading, body = article_id.encode(), title.encode(), text.encode()
    number = _NUMBER.pack
    parts = (number(len(article)), article, number(len(heading)), heading, number(len(body)), body, number(occurrence))
    return hashlib.blake2b(b"".join(parts), digest_size=16, person=b"glimmer passage").hexdigest()


def _draft(
    article: Article, shown: Sequence[str] | Mapping[int, str], start: tuple[int, int], end: tuple[int, int]
) -> PassageDraft:
    (p, c), (q, d) = start, end
    if p == q:
        text = " ".join(shown[p][c:d].split())
    else:
        lines = [shown[p][c:], *(shown[i] for i in range(p + 1, q)), shown[q][:d]]
        text = "\n".join(" ".join(line.split()) for line in lines)
    first = article.first_paragraph
    return PassageDraft(article, text, p + first, c, q + first, d)


def _lead(text: str) -> int:
    """White space characters a text begins with."""
    return len(text) - len(text.lstrip()) if text[:1].isspace() else 0


# Units: where an article may be cut.


def _units(article: Article, shown: Sequence[str], words: int) -> list[_Unit]:
    units: list[_Unit] = []
    held: tuple[tuple[int, int], int] | None = None  # a heading's start and words, waiting for what follows it
    end = (0, 0)
    for index, text in enumerate(shown):
        if not text or text.isspace():
            continue
        heading = article.paragraphs[index].startswith(HEADING) and count_words(text) <= _HEADING_WORDS
        if heading and units and held is None:
            units[-1] = units[-1]._replace(after=_SECTION)
        if heading:
            start, count = held or ((index, _lead(text)), 0)
            held, end = (start, count + count_words(text)), (index, len(text.rstrip()))
            continue
        fresh = _paragraph_units(text, index, words)
        if held is not None:
            fresh[0] = fresh[0]._replace(start=held[0], words=fresh[0].words + held[1])
            held = None
        units += fresh
    if held is not None:
        units.append(_Unit(held[0], end, held[1], _PARAGRAPH))
    return units


def _paragraph_units(text: str, index: int, words: int) -> list[_Unit]:
    """Sentences of a paragraph; those longer than a passage in smaller pieces."""
    units: list[_Unit] = []
    stop = len(text.rstrip())
    begin = _lead(text)
    spaced = _is_spaced(text)
    ends = [m.end() for m in _SENTENCE_END.finditer(text, begin, stop)]
    for end in [*ends, stop]:
        sentence = text[begin:end]
        begin += _lead(sentence)
        if begin >= end:
            continue
        count = _count_words(sentence, len(sentence.split()), spaced)
        if count <= words:
            units.append(_Unit((index, begin), (index, end), count, _SENTENCE))
        else:
            units += _sentence_units(text, begin, end, index)
        begin = end
    units[-1] = units[-1]._replace(after=_PARAGRAPH)
    return units


def _sentence_units(text: str, begin: int, end: int, index: int) -> list[_Unit]:
    """Pieces of 2 to 16 words, broken after commas or where a hash of the word says so, so that an edit stays local."""
    units: list[_Unit] = []
    start, count, stop = begin, 0, begin
    for run in _RUN.finditer(text, begin, end):
        low, high = run.span()
        if high - low > _LONG_RUN:
            if count:
                units.append(_Unit((index, start), (index, stop), count, _WORD))
            for at in range(low, high, _LONG_RUN):
                piece = min(at + _LONG_RUN, high)
                units.append(_Unit((index, at), (index, piece), count_words(text[at:piece]), _INSIDE))
            units[-1] = units[-1]._replace(after=_WORD)
            start, count = high, 0
            continue
        if count == 0:
            start = low
        count, stop = count + 1, high
        word = run.group()
        if count == 16 or (count > 1 and (word[-1] in ",;:" or zlib.crc32(word.encode()) % 8 == 0)):
            units.append(_Unit((index, start), (index, stop), count, _WORD))
            count = 0
    if count:
        units.append(_Unit((index, start), (index, stop), count, _WORD))
    units[-1] = units[-1]._replace(after=_SENTENCE)
    return units


# Anchors and layout: where it is cut.


def _anchors(units: list[_Unit], shown: Sequence[str], words: int) -> list[int]:
    """Indices of units that begin at an anchor: no better place, nor an end of the article, within `words` words."""
    position = list(accumulate(u.words for u in units))
    total = position[-1]
    rank = [_rank(unit, after, shown) for unit, after in pairwise(units)]
    found: list[int] = []
    for i, mine in enumerate(rank):
        here = position[i]
        if here <= words or total - here <= words:
            continue
        j = i - 1
        while j >= 0 and here - position[j] <= words and rank[j] < mine:
            j -= 1
        if j >= 0 and here - position[j] <= words:
            continue
        j = i + 1
        while j < len(rank) and position[j] - here <= words and rank[j] <= mine:
            j += 1
        if j == len(rank) or position[j] - here > words:
            found.append(i + 1)
    return found


def _rank(unit: _Unit, after: _Unit, shown: Sequence[str]) -> int:
    (p, c), (q, d) = unit.end, after.start
    around = shown[p][max(0, c - 24) : c] + "\n" + shown[q][d : d + 24]
    return unit.after << 32 | zlib.crc32(around.encode())


def _layout(units: list[_Unit], begin: int, stop: int, words: int, limit: int) -> list[int]:
    """Cut units [begin, stop) so that the sum of squared deviations from `words` and of penalties is smallest."""
    position = [0, *accumulate(u.words for u in units[begin:stop])]
    if position[-1] <= limit:
        return [begin, stop]
    scale = float(words * words)
    best = [0.0]
    back = [0]
    low = 0
    for j in range(1, len(position)):
        here = position[j]
        while low < j - 1 and here - position[low] > limit:
            low += 1
        cost, choice = inf, low
        wanted = here - words
        for i in range(low, j):
            if (one := best[i] + (wanted - position[i]) ** 2) < cost:
                cost, choice = one, i
        best.append(cost + scale * _PENALTY[units[begin + j - 1].after])
        back.append(choice)
    cuts = [len(position) - 1]
    while cuts[-1]:
        cuts.append(back[cuts[-1]])
    return [begin + c for c in reversed(cuts)]


# Splitting what overflows the window.


def _near(text: str, wanted: int, reach: int) -> int:
    """The best place to cut within `reach` of `wanted`: after a sentence, else a line or word, else a character."""
    low, high = max(1, wanted - reach), min(len(text) - 1, wanted + reach)
    ends = [m.end() for m in _SENTENCE_END.finditer(text, low, high)]
    if not ends:
        ends = [m.end() for m in _RUN.finditer(text, low, high) if m.end() < high]
    return min(ends, key=lambda end: (abs(end - wanted), end)) if ends else max(low, wanted)
