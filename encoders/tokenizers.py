"""Text to token ids, by the encoder family's own tokenizer library, so that ids agree with the original's.

T5 uses SentencePiece on `spiece.model`; BERT uses Hugging Face's `tokenizers` on `tokenizer.json`. Truncation and
padding are never theirs: cutting and batching belong to the code that knows the window.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import sentencepiece
import tokenizers

from .. import ModelError
from .model_files import read_plain, understood
from .tokenizer_json import check_tokenizer_json
from .word_cache import clean, word_cache

Ids = np.ndarray[Any, np.dtype[np.int32]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]
_LARGEST_FILE = 16 << 20
_BROKEN = "the tokenizer fails over a text; its file is damaged"


class WordParts(NamedTuple):
    """What the vocabulary says of words, bool [vocab_size] each.

    `is_continuation`: a token that begins without a break before it; `can_be_continued`: one that ends without a break
    after it. Where one of the first follows one of the second, both are of one word.
    """

    is_continuation: Flags
    can_be_continued: Flags


class Tokenizer(Protocol):
    """What every kind offers. Ids are int32 arrays; texts may hold any Unicode (a lone surrogate becomes "?")."""

    vocab_size: int
    pad_id: int
    unk_id: int
    bos_id: int  # what a decoder starts from
    eos_id: int

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids with the family's special tokens: T5 `… </s>`, BERT `[CLS] … [SEP]`."""
        ...

    def encode_plain(self, texts: Sequence[str]) -> list[Ids]:
        """Ids without special tokens."""
        ...

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """Text of `ids`; special tokens and ids beyond the vocabulary (padding rows of an embedding) are left out."""
        ...

    def encode_with_offsets(self, text: str) -> tuple[Ids, list[tuple[int, int]]] | None:
        """Ids as `encode` gives them, and the characters [start, end) of `text` that each stands for (special tokens:
        none). None where `decode` gives text back as it was written, so that nobody needs to look."""
        ...

    def word_parts(self) -> WordParts:
        """What the vocabulary says of where words begin and end."""
        ...

    def identity_bytes(self) -> bytes:
        """Bytes that change when, and only when, the tokenizer does."""
        ...


class SentencePieceTokenizer:
    """T5's tokenizer. A decoder starts from the padding token, as T5's does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model = read_plain(path, _LARGEST_FILE)
        with understood(path, "not a SentencePiece model"):
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=self._model)
            self.vocab_size = int(self._pieces.vocab_size())
            self._pieces.encode(["Try it."], out_type=int, add_eos=True)
        if self.vocab_size < 4:
            raise ModelError(f"{path}: not a SentencePiece model: {self.vocab_size} pieces")
        self.pad_id, self.eos_id = int(self._pieces.pad_id()), int(self._pieces.eos_id())
        self.unk_id = int(self._pieces.unk_id())
        if self.pad_id < 0 or self.eos_id < 0:
            raise ModelError(f"{path}: a T5 SentencePiece model needs a padding and an end-of-sequence piece")
        self.bos_id = self.pad_id

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        with understood(self._path, _BROKEN):
            return [
                np.asarray(ids, np.int32)
                for ids in self._pieces.encode(list(map(clean, texts)), out_type=int, add_eos=True)
            ]

    def encode_plain(self, texts: Sequence[str]) -> list[Ids]:
        with understood(self._path, _BROKEN):
            return [np.asarray(ids, np.int32) for ids in self._pieces.encode(list(map(clean, texts)), out_type=int)]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        special = (self.pad_id, self.eos_id)
        return str(self._pieces.decode([i for i in map(int, ids) if 0 <= i < self.vocab_size and i not in special]))

    def encode_with_offsets(self, text: str) -> None:
        return None

    def word_parts(self) -> WordParts:
        pieces = [str(self._pieces.id_to_piece(number)) for number in range(self.vocab_size)]
        # A piece without the mark goes on with a word if it is of letters or digits: a comma does not.
        return WordParts(
            np.array([piece[:1].isalnum() for piece in pieces], np.bool_),
            np.array([piece[-1:].isalnum() for piece in pieces], np.bool_),
        )

    def identity_bytes(self) -> bytes:
        return b"sentencepiece\0" + self._model


class WordPieceTokenizer:
    """BERT's tokenizer, from a `tokenizer.json`. A decoder starts from [CLS] and ends with [SEP]."""

    def __init__(self, path: Path) -> None:
        self._path = path
        content = read_plain(path, _LARGEST_FILE)
        with understood(path, "not a tokenizer.json of BERT"):  # the library raises bare Exception, and panics
            text = content.decode("utf-8")
            self._definition: dict[str, Any] = json.loads(text)
            self.vocab_size = check_tokenizer_json(self._definition)
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._tokenizer.encode("Try it.")
            self._cache = word_cache(self._definition, self._tokenizer)

        def special(name: str) -> int:
            found = self._tokenizer.token_to_id(name)
            if found is None:
                raise ModelError(f"{path}: a BERT tokenizer needs {name} in its vocabulary")
            return int(found)

        self.pad_id, self.unk_id = special("[PAD]"), special("[UNK]")
        self.bos_id, self.eos_id = special("[CLS]"), special("[SEP]")

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        return self._encode(texts, special=True)

    def encode_plain(self, texts: Sequence[str]) -> list[Ids]:
        return self._encode(texts, special=False)

    def _encode(self, texts: Sequence[str], *, special: bool) -> list[Ids]:
        with understood(self._path, _BROKEN):
            if self._cache is not None:
                return self._cache.encode(texts, special=special)
            encoded = self._tokenizer.encode_batch_fast(list(map(clean, texts)), add_special_tokens=special)
            return [np.asarray(each.ids, np.int32) for each in encoded]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        special = (self.pad_id, self.bos_id, self.eos_id)
        kept = [i for i in map(int, ids) if 0 <= i < self.vocab_size and i not in special]
        return str(self._tokenizer.decode(kept, skip_special_tokens=True))

    def encode_with_offsets(self, text: str) -> tuple[Ids, list[tuple[int, int]]]:
        with understood(self._path, _BROKEN):
            encoded = self._tokenizer.encode(clean(text))
        return np.asarray(encoded.ids, np.int32), [(int(start), int(end)) for start, end in encoded.offsets]

    def word_parts(self) -> WordParts:
        pieces = [self._tokenizer.id_to_token(number) or "" for number in range(self.vocab_size)]
        return WordParts(
            np.array([piece.startswith("##") for piece in pieces], np.bool_), np.ones(len(pieces), np.bool_)
        )

    def identity_bytes(self) -> bytes:
        # Truncation and padding are switched off here, so a file that differs only there is the same tokenizer.
        kept = {key: value for key, value in self._definition.items() if key not in ("truncation", "padding")}
        return b"wordpiece\0" + json.dumps(kept, sort_keys=True, ensure_ascii=True).encode()
