"""What an Arrow stream says that it holds, read from its message headers before pyarrow makes room for it.

pyarrow expands a batch's compressed buffers as soon as it reads the batch, whatever they come to: 33 KB become 1 GiB. A
header is a flatbuffer (`Message.fbs` of the Arrow format), and a compressed buffer begins with its expanded size.
Bodies are skipped, so that the look costs a few reads a batch.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

from ...storage.flatbuffer import field_place

_CONTINUATION: Final = b"\xff\xff\xff\xff"
_MOST_HEADER_BYTES: Final = 1 << 26
_MOST_BYTES: Final = 1 << 28  # a compressed batch may expand to, whatever its size
_MOST_EXPANSION: Final = 50  # times its size, for larger ones
_HEADER_KIND, _HEADER, _BODY_BYTES = 1, 2, 3  # fields of Message
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # kinds of header
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3  # fields of RecordBatch
_DATA = 1  # field of DictionaryBatch


def check_arrow(stream: BinaryIO, start: int) -> None:
    """Looks at every message header of the stream that begins at byte `start`.

    Raises ValueError where a batch expands to far more than its bytes, has more rows than these can hold, or ends after
    the file does. What else is wrong, the reader tells.
    """
    end = stream.seek(0, 2)
    at = start
    while at + 8 <= end:
        stream.seek(at)
        prefix = stream.read(8)
        length = int.from_bytes(prefix[4:], "little", signed=True)
        if prefix[:4] != _CONTINUATION or length == 0:
            return
        if not 0 < length <= min(_MOST_HEADER_BYTES, end - at - 8):
            raise ValueError(f"a message header of {length:,} bytes")
        body = at + 8 + length
        at = body + _check_message(stream, stream.read(length), body, end)


def _check_message(stream: BinaryIO, header: bytes, body: int, end: int) -> int:
    """Checks one message; returns the bytes of its body, which begins at byte `body`."""
    try:
        (message,) = struct.unpack_from("<I", header)
        size = _number(header, message, _BODY_BYTES, "<q")
        if not 0 <= size <= end - body:
            raise ValueError(f"a batch of {size:,} bytes, of which {end - body:,} are there")
        kind = _number(header, message, _HEADER_KIND, "<B")
        if kind in (_DICTIONARY_BATCH, _RECORD_BATCH):
            batch = _table(header, message, _HEADER)
            if kind == _DICTIONARY_BATCH:
                batch = _table(header, batch, _DATA)
            _check_batch(stream, header, batch, body, size)
    except struct.error:
        raise ValueError("a damaged message header") from None
    return size


def _check_batch(stream: BinaryIO, header: bytes, batch: int, body: int, size: int) -> None:
    expanded = size
    if field_place(header, batch, _COMPRESSION) is not None and field_place(header, batch, _BUFFERS) is not None:
        buffers = _table(header, batch, _BUFFERS)
        (count,) = struct.unpack_from("<I", header, buffers)
        for i in range(count):
            offset, length = struct.unpack_from("<qq", header, buffers + 4 + 16 * i)
            if length >= 8 and 0 <= offset <= size - 8:
                stream.seek(body + offset)
                expanded += max(0, int.from_bytes(stream.read(8), "little", signed=True))
    if expanded > max(_MOST_BYTES, _MOST_EXPANSION * size):
        raise ValueError(f"a compressed batch of {size:,} bytes that would expand to {expanded:,}")
    rows = _number(header, batch, _LENGTH, "<q")
    if not 0 <= rows <= 8 * expanded:
        raise ValueError(f"a batch of {rows:,} rows in {expanded:,} bytes")


def _number(header: bytes, table: int, field: int, layout: str) -> int:
    at = field_place(header, table, field)
    return 0 if at is None else int(struct.unpack_from(layout, header, at)[0])


def _table(header: bytes, table: int, field: int) -> int:
    """Where the table or vector that a field refers to begins."""
    at = field_place(header, table, field)
    if at is None:
        raise ValueError("a message header without its batch")
    return at + int(struct.unpack_from("<I", header, at)[0])
