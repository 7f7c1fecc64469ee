"""TREC CAR's CBOR files, item by item: paragraphs, pages or outlines, in flat memory.

A file is a header `["CAR", [type, …], …]` and an array of indefinite length that ends with a break (RFC 8949, section
3.2.1); some releases left the header or the array out. Nothing but the end of an item says where the next begins, so a
file whose framing is broken cannot be read on.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

import cbor2

from ... import InputError
from ...storage.inputs import CompressionError, decompressed_blocks
from .source_file import SourceFile, reading

PAGES: Final = 0
OUTLINES: Final = 1
PARAGRAPHS: Final = 2
TYPES: Final = {PAGES: "pages", OUTLINES: "outlines", PARAGRAPHS: "paragraphs"}

_ARRAY: Final = 0x9F
_BREAK: Final = 0xFF
_HEADERS: Final = (b"\x82\x63CAR", b"\x83\x63CAR", b"\x9f\x63CAR")
_FIRST_FIELDS: Final = (b"\x00\x40", b"\x00\x60")  # of an item: the number 0, then bytes or a text (its major type)
_MOST_BYTES: Final = 1 << 28
_DEPTH: Final = 200


def is_car(head: bytes) -> bool:
    """Whether a file that begins with `head` (8 bytes or more) is TREC CAR's, by its header or its first item."""
    if head.startswith(_HEADERS):
        return True
    head = head[1:] if head[:1] == b"\x9f" and head[1:2] >= b"\x83" else head
    return b"\x83" <= head[:1] <= b"\x87" and len(head) > 2 and bytes((head[1], head[2] & 0xE0)) in _FIRST_FIELDS


class CarFile:
    """The items of one file, to be read once.

    Attributes:
        kind: `PAGES`, `OUTLINES` or `PARAGRAPHS`, as the header says; None where there is no header.
    """

    def __init__(self, file: SourceFile, raw: BinaryIO) -> None:
        self._name, self._raw = file.name, raw
        self._blocks = decompressed_blocks(raw)
        self._held = io.BytesIO()
        self._before = 0  # bytes of the content before those held
        self._number = 0
        if self._byte() is None:
            raise InputError(f"{self._name}: the file is empty")
        head = bytes(self._held.getbuffer()[:8])
        if not is_car(head):
            raise InputError(f"{self._name}: not a CBOR file of TREC CAR; check the path")
        self.kind = self._kind(self._next()) if head.startswith(_HEADERS) else None
        first = self._byte()
        if first is None:
            raise self._truncated()
        self._is_array = first == _ARRAY
        if self._is_array:
            self._held.seek(1, io.SEEK_CUR)

    def items(self) -> Iterator[tuple[int, Any]]:
        """Items with their numbers, from 1.

        Raises InputError where the file ends too early or is no CBOR, with the last whole item and the byte behind it.
        """
        while (byte := self._byte()) is not None:
            if self._is_array and byte == _BREAK:
                self._held.seek(1, io.SEEK_CUR)
                if self._byte() is not None:
                    raise self._broken("there are bytes behind the end of the array")
                return
            item = self._next()
            self._number += 1
            yield self._number, item
        if self._is_array:
            raise self._truncated()

    def _kind(self, header: Any) -> int:
        try:
            kind = int(header[1][0])
        except (IndexError, TypeError, ValueError):
            kind = -1
        if kind not in TYPES:
            raise InputError(f"{self._name}: a TREC CAR header that says neither pages, outlines nor paragraphs")
        return kind

    def _next(self) -> Any:
        """The item that begins where `_held` stands."""
        start, wanted = self._held.tell(), 0
        while True:
            try:
                return cbor2.CBORDecoder(self._held, max_depth=_DEPTH).decode()
            except cbor2.CBORDecodeEOF:
                self._held.seek(start)
                wanted = max(2 * wanted, 1)
                if not self._more(wanted):
                    raise self._truncated() from None
                start = 0
            except (cbor2.CBORError, ValueError, OverflowError, MemoryError, RecursionError) as error:
                self._held.seek(start)
                raise self._broken(str(error)) from error

    def _byte(self) -> int | None:
        """The next byte, without taking it; None at the end."""
        while not (byte := self._held.read(1)):
            if not self._more(1):
                return None
        self._held.seek(-1, io.SEEK_CUR)
        return byte[0]

    def _more(self, blocks: int) -> bool:
        """Holds so many blocks more, from where `_held` stands; whether there were any."""
        self._before += self._held.tell()
        parts = [self._held.read()]
        if len(parts[0]) > _MOST_BYTES:
            raise self._broken(f"an item of more than {_MOST_BYTES:,} bytes")
        try:
            while len(parts) <= blocks and (block := next(self._blocks, b"")):
                parts.append(block)
        except CompressionError as error:
            what = "ends too early" if error.truncated else f"is damaged ({error})"
            raise InputError(f"{self._name}: the compressed file {what}, {self._where()}; fetch it again") from error
        self._held = io.BytesIO(b"".join(parts))
        return len(parts) > 1

    def _where(self) -> str:
        return f"after item {self._number:,}" if self._number else "before its first item has ended"

    def _truncated(self) -> InputError:
        return InputError(f"{self._name}: the file ends too early, {self._where()}; fetch it again")

    def _broken(self, detail: str) -> InputError:
        at = self._before + self._held.tell()
        return InputError(
            f"{self._name}: broken CBOR at byte {at:,}, {self._where()}: {detail}; what follows cannot be read: fetch "
            "the file again"
        )


def car_items(
    file: SourceFile, advance: Callable[[float], None] | None = None
) -> Iterator[tuple[int | None, int, Any]]:
    """(what the header says the file holds, number from 1, item) of a file, plain or compressed.

    `advance` is told the share of the file read so far. Raises InputError as `CarFile.items`, StorageError where the
    disk fails.
    """
    with reading(file) as raw:
        opened = CarFile(file, raw)
        for number, item in opened.items():
            if advance is not None and not number % 256:
                advance(min(1.0, raw.tell() / max(file.size, 1)))
            yield opened.kind, number, item
