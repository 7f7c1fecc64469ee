"""The beginning of a file, looked at once: what is needed to tell its format.

Files that cannot be a source whatever their format are refused here: archives, UTF-16, binary files. A file with
nothing in it is an `EmptyFileError`, which is no error in a directory of many.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ... import InputError
from ...storage.inputs import CompressionError, decompressed_blocks
from .car_file import is_car
from .lines import BOM, read_lines
from .source_file import SourceFile, reading
from .table_files import container_of, sample_table

LINES: Final = 20
_CONTROL: Final = bytes({*range(9), *range(14, 32)})  # hardly ever in text; a stray NUL is no reason to refuse a file
_PEEK_BYTES: Final = 4096
_ARCHIVES: Final = {
    b"PK\x03\x04": "a zip archive; unpack it (unzip FILE) and name what is inside",
    b"PK\x05\x06": "an empty zip archive; check where it comes from",
    b"7z\xbc\xaf": "a 7z archive; unpack it (7z x FILE) and name what is inside",
    b"\xff\xfe": "UTF-16 text; make it UTF-8 (iconv -f UTF-16 -t UTF-8 FILE)",
    b"\xfe\xff": "UTF-16 text; make it UTF-8 (iconv -f UTF-16 -t UTF-8 FILE)",
}


class EmptyFileError(InputError):
    """A file without a byte, a line or a row."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The beginning of `file`.

    Attributes:
        container: `text`, `parquet`, `arrow`, or `car` (TREC CAR's CBOR).
        lines: of text, up to 20 first lines that are not blank.
        records: JSON objects among these lines; or a table's first rows, which have only columns of known names.
        columns: a table's columns.
    """

    file: SourceFile
    container: str
    lines: Sequence[bytes] = ()
    records: Sequence[Mapping[str, Any]] = ()
    columns: Sequence[str] = field(default=())


def take_sample(file: SourceFile, wanted: Callable[[str], bool]) -> Sample:
    """Looks at a file. `wanted` says which columns of a table may matter.

    Raises EmptyFileError, and InputError for what no format can read.
    """
    with reading(file) as raw:
        head = b""
        with contextlib.suppress(CompressionError):  # told later, with its line
            head = next(decompressed_blocks(raw), b"")
        if is_car(head):
            return Sample(file=file, container="car")
        _check(file, head)
        if (container := container_of(head)) is not None:
            raw.seek(0)
            if raw.read(8) != head[:8]:
                raise InputError(f"{file.name}: a compressed {container} file; decompress it first")
            columns, rows, full = sample_table(raw, file.name, container, wanted, LINES)
            if not full:
                raise EmptyFileError(f"{file.name}: the {container} file has no rows")
            return Sample(file=file, container=container, records=rows, columns=columns)
    lines: list[bytes] = []
    try:
        for _, line in read_lines(file):
            lines.append(line)
            if len(lines) == LINES:
                break
    except InputError:
        if not lines:
            raise
    if not lines:
        raise EmptyFileError(f"{file.name}: the file is empty" if not file.size else f"{file.name}: no lines with text")
    records = []
    for line in lines:
        with contextlib.suppress(orjson.JSONDecodeError):
            if line.lstrip().startswith(b"{") and isinstance(record := orjson.loads(line), dict):
                records.append(record)
    return Sample(file=file, container="text", lines=lines, records=records)


def _check(file: SourceFile, head: bytes) -> None:
    for magic, what in _ARCHIVES.items():
        if head.startswith(magic):
            raise InputError(f"{file.name}: {what}")
    if head[257:262] == b"ustar":
        raise InputError(f"{file.name}: a tar archive; unpack it (tar xf FILE) and name what is inside")
    start = head[:_PEEK_BYTES].removeprefix(BOM)
    if container_of(head) is None and len(start) - len(start.translate(None, _CONTROL)) > len(start) // 50:
        raise InputError(f"{file.name}: a binary file; expected JSON lines, TSV, Parquet, Arrow or TREC CAR's CBOR")
