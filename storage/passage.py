"""A passage and its row in a text shard: what is known of a piece of an article apart from its memory.

One text shard is one Arrow IPC file of up to `SHARD_ROWS` passages, written when a job is planned, before any encoding.
It holds the exact token ids the encoder gets, so encoding, repair and grounded decoding never tokenise again. Every row
carries a CRC-32 of all its fields: Arrow files have no checksums of their own, and a reader checks the rows it reads.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .. import UsageError

SHARD_ROWS = 1024
"""Passages in a shard: of text, and of codes."""

PASSAGE_SCHEMA = pa.schema(
    [
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("article_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("start_paragraph_id", pa.int32(), nullable=False),
        pa.field("start_character", pa.int32(), nullable=False),
        pa.field("end_paragraph_id", pa.int32(), nullable=False),
        pa.field("end_character", pa.int32(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("tokens", pa.list_(pa.field("item", pa.uint32(), nullable=False)), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),
    ]
)
"""Columns of `text/<shard>.arrow`. `checksum` is `Passage.checksum()` of the row."""

_SHOWN_CHARACTERS = 60  # of a text, in a passage's repr
_PASSAGE_ID = re.compile(r"[0-9a-f]{32}")
_CONTENT_HASH = re.compile(r"[0-9a-f]{16}")
_INTEGERS = struct.Struct("<4i4I")
_NUMBER = struct.Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Passage:
    """One passage of one article.

    Attributes:
        passage_id: 32 lower-case hex digits, stable for the same article id, title, text and occurrence.
        article_id: the article's id in its source.
        title: title of the article, may be empty.
        text: the passage's text.
        start_paragraph_id, start_character: paragraph and character offset in it where the passage begins (KILT's
            provenance).
        end_paragraph_id, end_character: where it ends; the character is exclusive.
        content_hash: `content_hash(title, text)`.
        tokens: int32 [n], the encoder's exact input, special tokens included, 1 <= n <= the memory's window.
    """

    passage_id: str
    article_id: str
    title: str
    text: str
    start_paragraph_id: int
    start_character: int
    end_paragraph_id: int
    end_character: int
    content_hash: str
    tokens: npt.NDArray[np.int32]

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= _SHOWN_CHARACTERS else f"{self.text[: _SHOWN_CHARACTERS - 1]}…"
        shown = f"{self.title!r}, {text!r}, passage_id={self.passage_id!r}, tokens={len(self.tokens)}"
        return f"{type(self).__name__}({shown})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Passage):
            return NotImplemented
        return self._plain() == other._plain() and np.array_equal(self.tokens, other.tokens)

    def __hash__(self) -> int:
        return hash(self._plain())

    def _plain(self) -> tuple[str | int, ...]:
        return (
            self.passage_id,
            self.article_id,
            self.title,
            self.text,
            self.start_paragraph_id,
            self.start_character,
            self.end_paragraph_id,
            self.end_character,
            self.content_hash,
        )

    def checksum(self) -> int:
        """CRC-32 over every field, as stored in the column `checksum`. Field lengths are included."""
        article, title, text = self.article_id.encode(), self.title.encode(), self.text.encode()
        head = _INTEGERS.pack(
            self.start_paragraph_id,
            self.start_character,
            self.end_paragraph_id,
            self.end_character,
            len(article),
            len(title),
            len(text),
            len(self.tokens),
        )
        value = zlib.crc32(head + self.passage_id.encode() + self.content_hash.encode() + article + title + text)
        return zlib.crc32(self.tokens.astype("<u4", copy=False).tobytes(), value)


def content_hash(title: str, text: str) -> str:
    """16 hex digits: BLAKE2b (8 bytes) of title and text in UTF-8, each preceded by its length."""
    heading, body = title.encode(), text.encode()
    content = b"".join((_NUMBER.pack(len(heading)), heading, _NUMBER.pack(len(body)), body))
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def is_passage_id(text: str) -> bool:
    """Whether `text` is 32 lower-case hex digits."""
    return _PASSAGE_ID.fullmatch(text) is not None


def passage_batch(passages: Sequence[Passage]) -> pa.RecordBatch:
    """The rows of one text shard as a record batch of `PASSAGE_SCHEMA`, checksums filled in.

    Raises UsageError when a passage could not be stored: a malformed id or hash, no tokens, a negative token.
    """
    for passage in passages:
        _check(passage)
    lengths = np.fromiter((len(p.tokens) for p in passages), np.int64, len(passages))
    offsets = np.zeros(len(passages) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    flat = np.concatenate([p.tokens for p in passages]) if passages else np.zeros(0, np.int32)
    if flat.size and flat.min() < 0:
        negative = next(p.passage_id for p in passages if p.tokens.min() < 0)
        raise UsageError(f"passage {negative}: token ids cannot be negative")
    tokens = pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(flat.astype(np.uint32)), type=PASSAGE_SCHEMA.field("tokens").type
    )
    columns: list[pa.Array] = []
    for field in PASSAGE_SCHEMA:
        if field.name == "tokens":
            columns.append(tokens)
        elif field.name == "checksum":
            columns.append(pa.array([p.checksum() for p in passages], field.type))
        else:
            columns.append(pa.array([getattr(p, field.name) for p in passages], field.type))
    return pa.RecordBatch.from_arrays(columns, schema=PASSAGE_SCHEMA)


def _check(passage: Passage) -> None:
    name = passage.passage_id
    if not is_passage_id(name):
        raise UsageError(f"passage id {name!r} is not 32 lower-case hex digits")
    if _CONTENT_HASH.fullmatch(passage.content_hash) is None:
        raise UsageError(f"passage {name}: content hash {passage.content_hash!r} is not 16 lower-case hex digits")
    if passage.tokens.ndim != 1 or not len(passage.tokens) or passage.tokens.dtype.kind not in "iu":
        raise UsageError(f"passage {name}: tokens must be a non-empty vector of integers")
