"""Reads an Arrow IPC file of one uncompressed record batch, message by message, so that nothing is expanded.

Arrow decompresses a batch's buffers as soon as it reads the batch: 70 KB become 1 GB, whatever the schema says. Our
files are uncompressed, so the batch's header, a flatbuffer (Arrow's `Message.fbs`), is looked at first. Arrow has
verified the whole header before we see it; what is read here is checked all the same.
"""

from __future__ import annotations

import struct

import pyarrow as pa

from .flatbuffer import field_place

_MAGIC = b"ARROW1"
_START = 8  # the magic, padded to eight bytes; then the messages of a stream, then the footer, which nobody needs
_MESSAGE_HEADER = 2  # field numbers
_BATCH_LENGTH, _BATCH_COMPRESSION = 0, 3


def read_single_batch(buffer: pa.Buffer, schema: pa.Schema, *, most_rows: int) -> pa.RecordBatch:
    """The one record batch of the Arrow IPC file in `buffer`, without a copy.

    Raises ValueError (Arrow's own errors are ValueErrors too) when the file has another schema, is compressed, or has
    more than `most_rows` rows, before anything is allocated for them. The batch's offsets are as unchecked as ever.
    """
    content = memoryview(buffer)
    if content.nbytes < 2 * _START or bytes(content[: len(_MAGIC)]) != _MAGIC or bytes(content[-6:]) != _MAGIC:
        raise ValueError("not an Arrow IPC file, or cut short")
    reader = pa.ipc.MessageReader.open_stream(pa.BufferReader(buffer.slice(_START)))
    head = _next(reader)
    if head.type != "schema" or not pa.ipc.read_schema(head).equals(schema):
        raise ValueError("its columns are not those of this format")
    message = _next(reader)
    if message.type != "record batch":
        raise ValueError(f"it holds a {message.type} where its rows should be")
    rows, compressed = _batch_header(bytes(message.metadata))
    if compressed:
        raise ValueError("it is compressed, which files of this format never are")
    if not 0 <= rows <= most_rows:
        raise ValueError(f"it holds {rows} rows, expected at most {most_rows}")
    return pa.ipc.read_record_batch(message, schema)


def _next(reader: pa.ipc.MessageReader) -> pa.ipc.Message:
    try:
        return reader.read_next_message()
    except StopIteration:
        raise ValueError("it ends before its rows") from None


def _batch_header(metadata: bytes) -> tuple[int, bool]:
    """(rows, whether buffers are compressed) of a record batch message's header."""
    try:
        (table,) = struct.unpack_from("<I", metadata, 0)
        field = field_place(metadata, table, _MESSAGE_HEADER)
        if field is None:
            raise ValueError("its header is damaged")
        batch = field + struct.unpack_from("<I", metadata, field)[0]
        length = field_place(metadata, batch, _BATCH_LENGTH)
        rows = 0 if length is None else struct.unpack_from("<q", metadata, length)[0]
        return rows, field_place(metadata, batch, _BATCH_COMPRESSION) is not None
    except struct.error:
        raise ValueError("its header is damaged") from None
