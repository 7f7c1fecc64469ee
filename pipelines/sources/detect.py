"""What format a file has, told from its content, never from its name."""

from __future__ import annotations

import gzip
import zlib
from typing import Any, Final

import orjson

from ... import InputError
from .files import GZIP_MAGIC, SourceFile, read_lines, reading
from .tsv import dpr_header

FORMATS: Final = ("kilt", "wikipedia", "dpr", "msmarco", "tfds")
PARQUET: Final = b"PAR1"
_LINES_TRIED = 20
_PEEK_BYTES = 4096
_CONTROL = bytes({*range(9), *range(14, 32)})  # hardly ever in text; a stray NUL is no reason to refuse a file
_OTHER_KINDS: Final = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


def is_parquet(file: SourceFile) -> bool:
    """Whether the file is Parquet, by its magic."""
    with reading(file) as stream:
        return stream.read(4) == PARQUET


def check_readable(file: SourceFile) -> None:
    """Raise InputError for an empty file and for one that is neither text, gzipped text nor Parquet."""
    with reading(file) as stream:
        head = stream.read(_PEEK_BYTES)
    if not head:
        raise InputError(f"{file.name}: the file is empty")
    if head.startswith(GZIP_MAGIC):
        head = _inflate(head)
    for magic, kind in _OTHER_KINDS.items():
        if head.startswith(magic):
            raise InputError(f"{file.name}: {kind}, which is not supported; make it plain or gzipped UTF-8 text")
    if not head.startswith(PARQUET) and len(head) - len(head.translate(None, _CONTROL)) > len(head) // 50:
        raise InputError(f"{file.name}: a binary file; expected JSON lines, TSV (plain or gzipped) or Parquet")


def detect(file: SourceFile) -> str:
    """One of FORMATS, from the first lines that parse. Raises InputError where nothing is recognised."""
    check_readable(file)
    if is_parquet(file):
        return "wikipedia"
    lines = 0
    for _, line in read_lines(file):
        if found := _line_format(line):
            return found
        if not lines and line.lstrip().startswith(b"["):
            raise InputError(f"{file.name}: a JSON list; write one object a line (jq -c '.[]' does)")
        lines += 1
        if lines == _LINES_TRIED:
            break
    if not lines:
        raise InputError(f"{file.name}: the file has no lines with text")
    raise InputError(
        f"{file.name}: none of the formats {', '.join(FORMATS)} fits its first {lines} line(s); "
        f"name one with --format if the file is right"
    )


def _line_format(line: bytes) -> str | None:
    if line.lstrip().startswith(b"{"):
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            return None
        return _json_format(record) if isinstance(record, dict) else None
    if dpr_header(line):
        return "dpr"
    fields = line.split(b"\t")
    if len(fields) == 3 and fields[0].strip() and fields[1].strip():
        return "dpr"
    if len(fields) == 2 and fields[0].strip().isdigit():
        return "msmarco"
    return None


def _json_format(record: dict[str, Any]) -> str | None:
    if isinstance(record.get("text"), list) and ("_id" in record or "wikipedia_id" in record):
        return "kilt"
    if isinstance(record.get("text"), str) and any(name in record for name in ("id", "_id", "docid")):
        return "wikipedia"
    return None


def _inflate(head: bytes) -> bytes:
    """As much of a gzipped head as can be read; damage is reported later, with its line, by the reader."""
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, _PEEK_BYTES)
    except (zlib.error, gzip.BadGzipFile):
        return b""
