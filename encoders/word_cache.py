"""A word cache in front of WordPiece: the ids of each word are asked of the tokenizers library once, then looked up.

BERT's tokenizer works word by word, so its ids of a text are those of the text's words, one after another. This holds
where nothing looks across the space between two words, which `word_cache` checks: the normaliser is BERT's (it maps and
decomposes characters one by one, and no decomposition, accent or lower-case rule reaches across a space), the
pre-tokenizer is BERT's (it breaks at every space), no added token can hold a space or take in the spaces around it, and
special tokens are put around a text alone.
Words are split at spaces and line feeds alone: other white space (a tab, a vertical tab, U+2028) stays inside a word,
where the library decides what it is. A word of printable ASCII is split further, at punctuation, as BERT's
pre-tokenizer does it: "dynasty)," costs no call once "dynasty", ")" and "," are known.

SentencePiece gets no such cache. The best segmentation of a word depends on the words before it: log probabilities are
summed in single precision along the whole text, so ties ("SSS" is "S" + "SS" or "SS" + "S") fall one way or the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tokenizers

MOST_WORDS: Final = 1 << 18
"""Words kept in each of two generations, of about 200 bytes each."""

_LONGEST_WORD: Final = 64  # characters; a text with a longer word goes to the library whole
_CHUNK: Final = 64  # words in one call
_ASCII_PARTS: Final = re.compile(r"[0-9A-Za-z]+|[^0-9A-Za-z]")


class WordCache:
    """Encodes texts from the ids of their words. Made by `word_cache`; may be used from several threads."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        separator: str,
        around: tuple[bytes, bytes],
        *,
        split_ascii: bool,
        lowercase: bool,
        most: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._separator = f" {separator} "
        self._separator_id = tokenizer.token_to_id(separator)
        self._around = around
        self._split_ascii = split_ascii
        self._lowercase = lowercase
        self._most = most
        # Two generations: when the recent one is full it becomes the older one, and words still in use move over.
        self._recent: dict[str, bytes] = {"": b""}
        self._older: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def __contains__(self, word: str) -> bool:
        return word in self._recent or word in self._older

    def encode(self, texts: Sequence[str], *, special: bool) -> list[npt.NDArray[np.int32]]:
        """The ids of each text, int32 [n], with or without the special tokens that stand around one."""
        before, after = self._around if special else (b"", b"")
        if len(self._recent) > self._most:
            self._older, self._recent = self._recent, {"": b""}
        recent, older = self._recent, self._older
        split = [text.replace("\n", " ").split(" ") for text in texts]
        unknown = set[str]().union(*split).difference(recent)
        long = {word for word in unknown if len(word) > _LONGEST_WORD}
        if unknown:
            self._learn(unknown - long, recent, older)
        ids = recent.__getitem__
        encoded = []
        for text, words in zip(texts, split, strict=True):
            if long and not long.isdisjoint(words):
                encoded.append(np.frombuffer(bytearray(before + self._ids(text) + after), np.int32))
            else:
                encoded.append(np.frombuffer(bytearray().join([before, *map(ids, words), after]), np.int32))
        return encoded

    def _learn(self, words: set[str], recent: dict[str, bytes], older: Mapping[str, bytes]) -> None:
        """Puts the ids of `words` into `recent`."""
        ids_of = recent.__getitem__
        parts_of: dict[str, list[str]] = {}
        asked: set[str] = set()
        for word in words:
            if (ids := older.get(word)) is not None:
                recent[word] = ids
            elif self._split_ascii and word.isascii() and word.isprintable() and "[" not in word:
                parts = _ASCII_PARTS.findall(word.lower() if self._lowercase else word)
                try:
                    recent[word] = b"".join(map(ids_of, parts))
                except KeyError:
                    parts_of[word] = parts
                    asked.update(parts)
            else:
                asked.add(word)
        self._ask(list(asked.difference(recent)), recent)
        for word, parts in parts_of.items():
            recent[word] = b"".join(map(ids_of, parts))

    def _ask(self, words: Sequence[str], recent: dict[str, bytes]) -> None:
        """The library's ids of `words`, many in a call: an added token between two words parts them again."""
        chunks = [words[start : start + _CHUNK] for start in range(0, len(words), _CHUNK)]
        texts = [clean(self._separator.join(chunk)) for chunk in chunks]
        found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for chunk, one in zip(chunks, found, strict=True):
            ids = np.array(one.ids, np.int32)
            cuts = np.flatnonzero(ids == self._separator_id).tolist()
            if len(cuts) != len(chunk) - 1:  # a word holds the separator
                for word in chunk:
                    recent[word] = self._ids(word)
                continue
            data, size = ids.tobytes(), ids.itemsize
            for word, start, stop in zip(chunk, [-1, *cuts], [*cuts, len(ids)], strict=True):
                recent[word] = data[(start + 1) * size : stop * size]

    def _ids(self, text: str) -> bytes:
        return np.array(self._tokenizer.encode(clean(text), add_special_tokens=False).ids, np.int32).tobytes()


def word_cache(
    definition: Mapping[str, Any], tokenizer: tokenizers.Tokenizer, most: int = MOST_WORDS
) -> WordCache | None:
    """A cache for the `tokenizer` that `definition`, its parsed `tokenizer.json`, describes.

    None where the ids of a text may be others than those of its words. `most` bounds the words that are kept.
    """
    normalizer, pre_tokenizer = definition.get("normalizer"), definition.get("pre_tokenizer")
    if not (isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer"):
        return None
    if not (isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "BertPreTokenizer"):
        return None
    added: Sequence[Mapping[str, Any]] = definition.get("added_tokens") or []
    for token in added:
        content = token["content"]
        if not content.isascii() or not content.isprintable() or " " in content:
            return None
        if any(token.get(flag) for flag in ("single_word", "lstrip", "rstrip")):
            return None
    separator = next((t["content"] for t in added if t.get("special") and not t.get("normalized")), None)
    around = _around(tokenizer)
    if separator is None or around is None:
        return None
    return WordCache(
        tokenizer,
        separator,
        around,
        # Parts of a word without "[" cannot make up an added token.
        split_ascii=all("[" in token["content"] for token in added),
        lowercase=bool(normalizer.get("lowercase")),
        most=most,
    )


def _around(tokenizer: tokenizers.Tokenizer) -> tuple[bytes, bytes] | None:
    """Ids (int32) that the tokenizer puts before and after those of a text; None where it does anything else."""
    whole = tokenizer.encode("a")
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    ids, special = whole.ids, whole.special_tokens_mask
    start = special.index(0) if 0 in special else len(ids)
    if not plain or ids[start : start + len(plain)] != plain or len(ids) != sum(special) + len(plain):
        return None
    return np.array(ids[:start], np.int32).tobytes(), np.array(ids[start + len(plain) :], np.int32).tobytes()


def clean(text: str) -> str:
    """`text` with "?" for lone surrogates, which are no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
