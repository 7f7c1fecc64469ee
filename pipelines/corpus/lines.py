"""Lines of a source file, plain or compressed, read as a stream.

A 35 GB file is never held: blocks of 1 MiB are decompressed and split as they come. Reading reports how far it is
through the compressed file, for progress.

A plain file may be read in spans: a line belongs to the span that its first byte is in (`line_spans`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from ... import InputError
from ...storage.inputs import BLOCK_BYTES, MAGIC_BYTES, CompressionError, compression, decompressed_blocks
from .source_file import SourceFile, Span, reading

MAX_LINE_BYTES: Final = 1 << 28
BOM: Final = b"\xef\xbb\xbf"
_PROBE_BYTES: Final = 1 << 14  # read first where a line's end is looked for


def read_lines(
    file: SourceFile,
    advance: Callable[[float], None] | None = None,
    *,
    begins_record: Callable[[bytes], bool] | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Numbered lines (from 1), without line ends; blank lines are counted, not yielded.

    `advance` is told the share of the file read so far. Of a file with a span only the lines of the span are read, and
    counted from its first; `begins_record` says whether a line can be the first of a span (None: any can): the others
    belong to the span before. Raises InputError for a truncated or damaged compressed file (after every whole line
    before the damage) and for a line of more than 256 MiB.
    """
    with reading(file) as raw:
        number, carry = 0, list[bytes]()
        held = 0
        first, end = (0, file.size) if file.span is None else span_bounds(raw, file.span, begins_record)
        blocks = decompressed_blocks(raw) if file.span is None else _blocks(raw, first, end)
        while block := _next(blocks, file, raw, number + 1):
            if advance is not None:
                advance(min(1.0, (raw.tell() - first) / (end - first)) if end > first else 1.0)
            head, *rest = block.split(b"\n")
            carry.append(head)
            held += len(head)
            if held > MAX_LINE_BYTES:
                line_number = number + 1 + _lines_before(raw, first)
                raise InputError(
                    f"{file.name}:{line_number}: a line of more than {MAX_LINE_BYTES:,} bytes; not line data"
                )
            if not rest:
                continue
            rest.insert(0, b"".join(carry))
            carry = [rest.pop()]
            held = len(carry[0])
            for line in rest:
                number += 1
                if number == 1 and not first:
                    line = line.removeprefix(BOM)
                if line and not line.isspace():
                    yield number, line.removesuffix(b"\r")
        if file.span is not None:
            file.span.lines = number
        line = b"".join(carry).removesuffix(b"\r")
        if number == 0 and not first:
            line = line.removeprefix(BOM)
        if line and not line.isspace():
            yield number + 1, line


def _next(blocks: Iterator[bytes], file: SourceFile, raw: BinaryIO, line: int) -> bytes:
    """The next block, empty at the end; `line` is the line that is being read, for messages."""
    try:
        return next(blocks, b"")
    except CompressionError as error:
        at = raw.tell()
        raw.seek(0)
        kind = compression(raw.read(MAGIC_BYTES)) or "compressed file"
        what = (
            f"truncated {kind}: the file ends at byte {file.size:,} inside this line or right before it"
            if error.truncated
            else f"damaged {kind} near byte {at:,} ({error})"
        )
        raise InputError(f"{file.name}:{line}: {what}; fetch it again") from error


def line_spans(file: SourceFile, size: int) -> list[Span]:
    """Spans of `size` bytes that together are the file; none for a file that is compressed."""
    with reading(file) as raw:
        if compression(raw.read(MAGIC_BYTES)) is not None:
            return []
    return [Span(start, min(start + size, file.size)) for start in range(0, file.size, size)]


def span_bounds(raw: BinaryIO, span: Span, begins_record: Callable[[bytes], bool] | None = None) -> tuple[int, int]:
    """(first byte, end): the lines of a span, from the first that begins in it to the last; equal where none does."""
    first = _record_start(raw, span.start, span.end, begins_record)
    if first >= span.end:
        return first, first
    return first, _record_start(raw, span.end, None, begins_record)


def _record_start(raw: BinaryIO, at: int, limit: int | None, begins_record: Callable[[bytes], bool] | None) -> int:
    """Where the first line begins that starts at byte `at` or later and can begin a span; `limit` or more if none
    does before it."""
    if at == 0:
        return 0
    raw.seek(at - 1)
    at += len(_line(raw, None if limit is None else limit - at + 1)) - 1
    while begins_record is not None and (limit is None or at < limit):
        line = _line(raw, None)
        if not line or begins_record(line.rstrip(b"\r\n")):
            break
        at += len(line)
    return at


def _line(raw: BinaryIO, most: int | None) -> bytes:
    """The line that begins where `raw` stands, its end included; cut after `most` bytes, or where it is too long."""
    at, held = raw.tell(), bytearray()
    most = MAX_LINE_BYTES + 2 * BLOCK_BYTES if most is None else most
    while len(held) < most and (block := raw.read(min(_PROBE_BYTES if not held else BLOCK_BYTES, most - len(held)))):
        line, newline, _ = block.partition(b"\n")
        held += line + newline
        if newline:
            break
    raw.seek(at + len(held))
    return bytes(held)


def _blocks(raw: BinaryIO, first: int, end: int) -> Iterator[bytes]:
    raw.seek(first)
    while (left := end - first) > 0 and (block := raw.read(min(BLOCK_BYTES, left))):
        yield block
        first += len(block)


def _lines_before(raw: BinaryIO, at: int) -> int:
    """Lines that end before byte `at`; for messages, since the bytes are read for it."""
    return sum(block.count(b"\n") for block in _blocks(raw, 0, at))
