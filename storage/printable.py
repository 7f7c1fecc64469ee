"""Text of unknown origin, made safe to show: in a terminal, a log, a report.

Titles, texts, ids and file names come from other people. An escape sequence in one of them can retitle a terminal or
write into its input, and bidirectional controls can make a line read as what it is not. Whatever is shown to a person
goes through `printable` first.
"""

from __future__ import annotations

import re
from typing import Final

_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional controls
    "\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f"  # line and paragraph separators, annotations, tag characters
    "\ud800-\udfff]"  # lone surrogates, which no encoding can write
)


def printable(text: str) -> str:
    r"""`text` with control characters written out (`\x1b`, `\u202e`); tabs and line feeds stay."""
    return _UNSAFE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


def printable_line(text: str) -> str:
    """`text` on one line, runs of white space folded, control characters written out."""
    return printable(" ".join(re.split(r"[ \t\n\r\f\v]+", text.strip())))


def printable_json(text: str) -> str:
    r"""JSON text, equal in meaning, with control characters as JSON escapes (`\u202e`)."""
    return _UNSAFE.sub(_json_escape, text)


def _json_escape(found: re.Match[str]) -> str:
    units = found.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{int.from_bytes(units[at : at + 2], 'big'):04x}" for at in range(0, len(units), 2))
