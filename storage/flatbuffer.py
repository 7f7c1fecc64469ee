"""Where the fields of a flatbuffer lie: just enough to look at an Arrow message's header before Arrow acts on it.

A table begins with a signed 32-bit distance to its vtable, which gives the place of each field within the table, 0 for
one that is absent. Nothing in it is believed: whatever lies outside the header is a struct.error.
"""

from __future__ import annotations

import struct


def field_place(header: bytes, table: int, field: int) -> int | None:
    """Where field number `field` of the table at byte `table` lies; None when it is absent. Raises struct.error."""
    vtable = table - struct.unpack_from("<i", header, table)[0]
    if not 0 <= vtable <= len(header) - 4:
        raise struct.error("a vtable outside the header")
    slot = 4 + 2 * field
    if slot + 2 > struct.unpack_from("<H", header, vtable)[0]:
        return None
    (distance,) = struct.unpack_from("<H", header, vtable + slot)
    return table + int(distance) if distance else None
