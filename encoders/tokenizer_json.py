"""Checks a `tokenizer.json` before the tokenizers library sees it.

The library is made for its own files: over others it panics, allots what a length in the file asks for (8 GB for four
bytes of a `Precompiled` normaliser), or runs a regular expression for ever. BERT's tokenizers need few of its parts, so
only those are let through, each with its numbers in range. What cannot be described so is refused with the part's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MOST_IDS = 1 << 24
"""Ids are below this, as the rows of an embedding are."""

_MOST_CHARACTERS = 1000
_MOST_PIECES = 64
_LONGEST_TOKEN = 4096
_DEEPEST = 8
_PARTS: Mapping[str, frozenset[str]] = {
    "normalizer": frozenset(
        ("BertNormalizer", "Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Nmt")
    ),
    "pre_tokenizer": frozenset(
        ("BertPreTokenizer", "Sequence", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits")
    ),
    "post_processor": frozenset(("TemplateProcessing", "BertProcessing")),
    "decoder": frozenset(("WordPiece",)),
}
_LISTS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}


def check_tokenizer_json(definition: Any) -> int:
    """How many ids a BERT tokenizer's parsed `tokenizer.json` has: one more than the largest, gaps included.

    Raises ValueError naming the part that is malformed, out of range, or not one that BERT's tokenizers have.
    """
    if not isinstance(definition, dict):
        raise ValueError("it is not a JSON object")
    for part, kinds in _PARTS.items():
        for one in _each(definition.get(part), part):
            if one.get("type") not in kinds:
                raise ValueError(f"{part} is {one.get('type')!r:.80}; known: {', '.join(sorted(kinds))}")
    most = max(_vocabulary(definition.get("model")), _added(definition.get("added_tokens") or []))
    post = definition.get("post_processor")
    return 1 + max(most, _template(post) if post is not None else 0)


def _each(value: Any, part: str, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The object of one part of the file, and those that a sequence holds."""
    if value is None:
        return
    if not isinstance(value, dict) or depth > _DEEPEST:
        raise ValueError(f"{part} is not an object, or nested too deep")
    yield value
    if value.get("type") == "Sequence":
        members = value.get(_LISTS.get(part, ""))
        if not isinstance(members, list) or len(members) > _MOST_PIECES:
            raise ValueError(f"{part} is not a short list of steps")
        for member in members:
            yield from _each(member, part, depth + 1)


def _vocabulary(model: Any) -> int:
    """The largest id of the model's vocabulary."""
    if not isinstance(model, dict) or model.get("type", "WordPiece") != "WordPiece":
        kind = model.get("type") if isinstance(model, dict) else model
        raise ValueError(f"model is {kind!r:.80}; BERT's is WordPiece")
    longest = model.get("max_input_chars_per_word", 100)
    if type(longest) is not int or not 1 <= longest <= _MOST_CHARACTERS:
        raise ValueError(f"model.max_input_chars_per_word is {longest!r:.40}, expected 1 to {_MOST_CHARACTERS}")
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ValueError("model.vocab is not an object of tokens")
    for token, number in vocabulary.items():
        _check_id(number, token)
    return max(int(number) for number in vocabulary.values())


def _added(tokens: Any) -> int:
    if not isinstance(tokens, list):
        raise ValueError("added_tokens is not a list")
    most = 0
    for token in tokens:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ValueError("an added token is malformed")
        if not 0 < len(token["content"]) <= _LONGEST_TOKEN:
            raise ValueError(f"an added token has {len(token['content'])} characters")
        most = max(most, _check_id(token.get("id"), token["content"]))
    return most


def _template(post: Mapping[str, Any]) -> int:
    """The largest id that the post-processor puts in; every special token it names must be there."""
    if post["type"] == "BertProcessing":
        pairs = [post.get("sep"), post.get("cls")]
        if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
            raise ValueError("post_processor is malformed")
        return max(_check_id(number, token) for token, number in pairs)  # type: ignore[misc]
    special = post.get("special_tokens")
    if not isinstance(special, dict) or len(special) > _MOST_PIECES:
        raise ValueError("post_processor.special_tokens is not a short object")
    most = 0
    for name, entry in special.items():
        ids = entry.get("ids") if isinstance(entry, dict) else None
        tokens = entry.get("tokens") if isinstance(entry, dict) else None
        if not (isinstance(ids, list) and isinstance(tokens, list) and 1 <= len(ids) == len(tokens) <= _MOST_PIECES):
            raise ValueError(f"post_processor.special_tokens.{name:.80} is malformed")
        most = max(most, *(_check_id(number, name) for number in ids))
    for key in ("single", "pair"):
        _check_pieces(post.get(key), key, special)
    return most


def _check_pieces(pieces: Any, key: str, special: Mapping[str, Any]) -> None:
    if not isinstance(pieces, Sequence) or isinstance(pieces, str) or len(pieces) > _MOST_PIECES:
        raise ValueError(f"post_processor.{key} is not a short list")
    for piece in pieces:
        if not isinstance(piece, dict) or len(piece) != 1:
            raise ValueError(f"post_processor.{key} is malformed")
        kind, inner = next(iter(piece.items()))
        name = inner.get("id") if isinstance(inner, dict) else None
        if kind == "SpecialToken" and (not isinstance(name, str) or name not in special):
            raise ValueError(f"post_processor.{key} puts in {name!r:.80}, which special_tokens does not have")


def _check_id(number: Any, token: str) -> int:
    if type(number) is not int or not 0 <= number < MOST_IDS:
        raise ValueError(f"token {token!r:.80} has the id {number!r:.40}, expected 0 to {MOST_IDS - 1}")
    return number
