"""The id of an article whose JSON record cannot be read: a look at what is whole in a broken line.

A refresh must know which article a refused record stands for. The names of the outermost object are read one after the
other, whatever is wrong with the values between them, and no further than the first `_MOST_BYTES` and `_MOST_TOKENS`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import orjson

_MOST_BYTES: Final = 1 << 20
_MOST_TOKENS: Final = 4096
_LONGEST_ID: Final = 4_096
_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]:,]|[^\s"{}\[\]:,]++', re.DOTALL)
_INTEGER: Final = re.compile(rb"-?\d++")


def salvaged_id(line: bytes, names: Sequence[str]) -> str:
    """The value of the first of the fields `names` that a broken JSON object has readable; "" where none is."""
    found: dict[str, str] = {}
    depth = 0
    name, value = b"", b""  # at depth 1: the string before the last colon, and what stood before it
    expects_value = False
    for count, match in enumerate(_TOKEN.finditer(line[:_MOST_BYTES])):
        token = match.group()
        if count == _MOST_TOKENS:
            break
        if token in b"{[":
            depth += 1
            expects_value = False
        elif token in b"}]":
            depth -= 1
        elif depth != 1:
            continue
        elif token == b":":
            name, expects_value = value, True
        elif token == b",":
            expects_value = False
        elif expects_value:
            expects_value = False
            key, text = _string(name), _scalar(token)
            if key in names and text:
                found.setdefault(key, text)  # in a broken record, what stands later may belong to its text
        else:
            value = token
    return next((found[name] for name in names if name in found), "")


def _scalar(token: bytes) -> str:
    """A string or an integer as an id; "" for anything else and for what is no id."""
    if len(token) > 6 * _LONGEST_ID:
        return ""
    if _INTEGER.fullmatch(token):
        return token.decode()
    text = _string(token).strip()
    return text if text.isprintable() and len(text) <= _LONGEST_ID else ""


def _string(token: bytes) -> str:
    try:
        text = orjson.loads(token)
    except orjson.JSONDecodeError:
        return ""
    return text if isinstance(text, str) else ""
