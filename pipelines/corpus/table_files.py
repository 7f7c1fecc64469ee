"""Parquet and Arrow files, read in small batches of the columns that matter, whatever their bytes are.

pyarrow raises many kinds for bytes that are not what they say; here they become an InputError with the file's name.
Arrow files are believed by pyarrow as they are, so each batch is checked before a value is read from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ... import GlimmerError, InputError
from .arrow_headers import check_arrow
from .rejects import RecordError
from .source_file import Span

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS: Final = 256
_MAGIC: Final = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
_ROWS_A_BYTE: Final = 8  # a row has an id of its own, so that it takes a bit or more
_READABLE: Final = (
    "string",
    "large_string",
    "string_view",
    "binary",
    "large_binary",
    "integer",
    "floating",
    "null",
    "boolean",
)

Row = dict[str, Any] | RecordError


def container_of(head: bytes) -> str | None:
    """`parquet` or `arrow`, from a file's first bytes; None for anything else."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def sample_table(
    stream: BinaryIO, name: str, container: str, wanted: Callable[[str], bool], rows: int
) -> tuple[list[str], list[dict[str, Any]], bool]:
    """All columns of a table, the `wanted` ones of its first rows, and whether it has any row."""
    with _checked(name, container):
        schema, batches, _ = _open(stream, name, container)
        columns = [field.name for field in schema if wanted(field.name)]
        found: list[dict[str, Any]] = []
        full = False
        for batch in batches(columns or schema.names[:1]):
            found += [row for row in table_rows(batch.slice(0, rows)) if not isinstance(row, RecordError)]
            if full := batch.num_rows > 0:
                break
        return list(schema.names), found, full


def read_table(
    stream: BinaryIO,
    name: str,
    container: str,
    columns: Sequence[str],
    advance: Callable[[float], None],
    span: Span | None = None,
) -> Iterator[Row]:
    """The rows of a table with `columns` only; a row whose bytes are not UTF-8 comes out as a RecordError.

    `advance` is told the share read so far; `span` has the row groups to read of a Parquet file. Raises InputError for
    a damaged file.
    """
    with _checked(name, container):
        schema, batches, total = _open(stream, name, container, span)
        for column in columns:
            _check_type(schema.field(column).type, name, column)
        done = 0
        for batch in batches(columns):
            yield from table_rows(batch)
            done += batch.num_rows
            if total:
                advance(min(1.0, done / total))
        if total is not None and done != total:
            raise InputError(f"{name}: damaged or truncated {container} file ({done:,} of {total:,} rows)")


def row_group_spans(stream: BinaryIO, name: str, size: int) -> list[Span]:
    """The row groups of a Parquet file, consecutive ones together while they have less than `size` bytes."""
    import pyarrow.parquet as pq

    with _checked(name, "parquet"):
        metadata = pq.ParquetFile(stream).metadata
        spans: list[Span] = []
        rows = held = 0
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            # Its bytes as they stand in the file: `total_byte_size` is what they come to.
            taken = sum(group.column(i).total_compressed_size for i in range(group.num_columns))
            if not spans or held + taken > size:
                spans.append(Span(number, number + 1, rows_before=rows))
                held = 0
            spans[-1].end = number + 1
            held += taken
            rows += group.num_rows
        return spans


def table_rows(batch: pa.RecordBatch) -> Iterator[Row]:
    """Rows as dictionaries; a row whose bytes are not UTF-8 spoils itself only, not its batch."""
    try:
        rows = [_decoded(row) for row in batch.to_pylist()]
    except UnicodeDecodeError:
        for row in range(batch.num_rows):
            try:
                yield _decoded(batch.slice(row, 1).to_pylist()[0])
            except UnicodeDecodeError as error:
                yield RecordError("not_utf8", f"not valid UTF-8 at byte {error.start}")
    else:
        yield from rows


_Batches = Callable[[Sequence[str]], "Iterator[pa.RecordBatch]"]


def _open(
    stream: BinaryIO, name: str, container: str, span: Span | None = None
) -> tuple[pa.Schema, _Batches, int | None]:
    """Schema, batches of some columns, and rows where the file says how many."""
    if container == "arrow":
        return _open_arrow(stream, name)
    import pyarrow.parquet as pq

    size = stream.seek(0, 2)
    stream.seek(0)
    file = pq.ParquetFile(stream, page_checksum_verification=True)
    total = file.metadata.num_rows
    if total > _ROWS_A_BYTE * size or total < 0:
        raise InputError(f"{name}: damaged Parquet file: {total:,} rows in {size:,} bytes; fetch it again")

    groups = range(file.num_row_groups) if span is None else range(span.start, span.end)
    if span is not None:
        total = sum(file.metadata.row_group(number).num_rows for number in groups)

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return iter(
            file.iter_batches(batch_size=BATCH_ROWS, row_groups=list(groups), columns=list(columns), use_threads=False)
        )

    return file.schema_arrow, batches, total


def _open_arrow(stream: BinaryIO, name: str) -> tuple[pa.Schema, _Batches, int | None]:
    """An Arrow file is a stream between a magic and a footer, and is read as one."""
    import pyarrow as pa

    stream.seek(0)
    start = 8 if stream.read(6) == b"ARROW1" else 0
    check_arrow(stream, start)
    stream.seek(start)
    reader = pa.ipc.open_stream(stream)

    def batches(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for batch in reader:
            chosen = batch.select(list(columns))
            for column, values in zip(columns, chosen.columns, strict=True):
                _check_values(values, name, column)
            for first in range(0, chosen.num_rows, BATCH_ROWS):
                yield chosen.slice(first, BATCH_ROWS)

    return reader.schema, batches, None


def _check_values(values: pa.Array, name: str, column: str) -> None:
    """InputError for offsets that leave their buffers; bytes that are not UTF-8 are told later, row by row."""
    import pyarrow as pa

    if pa.types.is_string(values.type):
        values = values.view(pa.binary())
    elif pa.types.is_large_string(values.type):
        values = values.view(pa.large_binary())
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(f"{name}: damaged Arrow file: column '{column}': {first_line(error)}") from error


def _check_type(kind: pa.DataType, name: str, column: str) -> None:
    from pyarrow import types

    inner = kind
    while True:
        if types.is_dictionary(inner) or types.is_list(inner) or types.is_large_list(inner):
            inner = inner.value_type
        elif types.is_struct(inner) and inner.get_field_index("paragraph") >= 0:
            inner = inner.field("paragraph").type
        else:
            break
    if not any(getattr(types, f"is_{readable}")(inner) for readable in _READABLE):
        raise InputError(
            f"{name}: column '{column}' is of type {kind}, which is no text; name another with --field ROLE=COLUMN"
        )


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v.decode("utf-8") if isinstance(v, bytes) else v for k, v in row.items()}


@contextmanager
def _checked(name: str, container: str) -> Iterator[None]:
    """Whatever pyarrow raises for bytes that it cannot read becomes an InputError."""
    try:
        yield
    except (GlimmerError, GeneratorExit):
        raise
    except Exception as error:  # ArrowInvalid, OSError, MemoryError, ValueError, OverflowError, KeyError …
        what = "Parquet" if container == "parquet" else "Arrow"
        raise InputError(f"{name}: damaged or truncated {what} file ({first_line(error)}); fetch it again") from error


def first_line(error: BaseException) -> str:
    """An exception's first line, its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
