"""Lines of a source file, plain or compressed, read as a stream.

A 35 GB file is never held: blocks of 1 MiB are decompressed and split as they come. Reading reports how far it is
through the compressed file, for progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

from ... import InputError
from ...storage.inputs import MAGIC_BYTES, CompressionError, compression, decompressed_blocks
from .source_file import SourceFile, reading

MAX_LINE_BYTES: Final = 1 << 28
BOM: Final = b"\xef\xbb\xbf"


def read_lines(file: SourceFile, advance: Callable[[float], None] | None = None) -> Iterator[tuple[int, bytes]]:
    """Numbered lines (from 1), without line ends; blank lines are counted, not yielded.

    `advance` is told the share of the file read so far. Raises InputError for a truncated or damaged compressed file
    (after every whole line before the damage) and for a line of more than 256 MiB.
    """
    with reading(file) as raw:
        number, carry = 0, list[bytes]()
        held = 0
        blocks = decompressed_blocks(raw)
        while block := _next(blocks, file, raw, number + 1):
            if advance is not None:
                advance(min(1.0, raw.tell() / file.size) if file.size else 1.0)
            head, *rest = block.split(b"\n")
            carry.append(head)
            held += len(head)
            if held > MAX_LINE_BYTES:
                raise InputError(
                    f"{file.name}:{number + 1}: a line of more than {MAX_LINE_BYTES:,} bytes; not line data"
                )
            if not rest:
                continue
            rest.insert(0, b"".join(carry))
            carry = [rest.pop()]
            held = len(carry[0])
            for line in rest:
                number += 1
                if number == 1:
                    line = line.removeprefix(BOM)
                if line and not line.isspace():
                    yield number, line.removesuffix(b"\r")
        line = b"".join(carry).removesuffix(b"\r")
        if number == 0:
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
