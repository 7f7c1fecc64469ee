"""The catalog's Parquet files: written by pyarrow with page checksums, read only with the recorded SHA-256.

A file holds up to a million rows sorted by (segment, row), so that a refresh replaces the files that hold dead rows and
leaves the others, and so that a scan meets the rows in the order of the payload.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .. import DamageError, UsageError
from .files import damage, sha256_bytes, translated
from .manifest import FILE_ROWS_LIMIT, CatalogFile, largest_bytes
from .passage import Passage
from .stores import Store
from .text_shards import TextShard
from .vacuumed import PASSAGES

CATALOG_SCHEMA = pa.schema(
    [
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("segment", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("article_id", pa.string(), nullable=False),
        pa.field("start_paragraph_id", pa.int32(), nullable=False),
        pa.field("start_character", pa.int32(), nullable=False),
        pa.field("end_paragraph_id", pa.int32(), nullable=False),
        pa.field("end_character", pa.int32(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
    ]
)
"""Columns of the catalog. Where a passage begins and ends is here, not only in the text shard, because it may move
while the passage's text, and so its row in a segment, stays."""

MAX_FILE_ROWS = FILE_ROWS_LIMIT
_ROW_GROUP = 131_072
_DICTIONARIES = ["segment", "article_id"]
_LARGEST_FOOTER, _MOST_COLUMNS = 1 << 20, 1 << 16


def write_catalog_files(
    store: Store, batches: Iterable[pa.Table | pa.RecordBatch], *, max_rows: int = MAX_FILE_ROWS
) -> Iterator[CatalogFile]:
    """Writes `batches` (columns of CATALOG_SCHEMA, any order) as files of at most `max_rows` rows; yields each.

    Rows stay in the files they arrive for, sorted by (segment, row) within each; give them sorted for files that do not
    overlap. Holds one file's rows at a time. Raises UsageError for rows that do not fit the schema, StorageError.
    """
    for file, content in catalog_files(batches, max_rows=max_rows):
        store.put(f"{PASSAGES}/{file.name}", content)
        yield file


def catalog_files(
    batches: Iterable[pa.Table | pa.RecordBatch], *, max_rows: int = MAX_FILE_ROWS
) -> Iterator[tuple[CatalogFile, bytes]]:
    """What `write_catalog_files` writes: each file with its content."""
    pending: list[pa.Table] = []
    waiting, number = 0, 0
    for batch in batches:
        table = _conformed(batch)
        while table.num_rows:
            part = table.slice(0, max_rows - waiting)
            table = table.slice(part.num_rows)
            pending.append(part)
            waiting += part.num_rows
            if waiting == max_rows:
                yield _file(pa.concat_tables(pending), number)
                pending, waiting, number = [], 0, number + 1
    if pending:
        yield _file(pa.concat_tables(pending), number)


def _conformed(batch: pa.Table | pa.RecordBatch) -> pa.Table:
    table = pa.table(batch) if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
    missing = [name for name in CATALOG_SCHEMA.names if name not in table.column_names]
    if missing:
        raise UsageError(f"catalog rows lack the columns {missing}")
    table = table.select(CATALOG_SCHEMA.names)
    empty = [name for name in table.column_names if table.column(name).null_count]
    if empty:
        raise UsageError(f"catalog rows have nulls in {empty}")
    try:
        return table.cast(CATALOG_SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise UsageError(f"catalog rows do not fit the schema: {error}") from error


def _file(table: pa.Table, number: int) -> tuple[CatalogFile, bytes]:
    if table.nbytes > largest_bytes(table.num_rows):
        raise UsageError(
            f"{table.nbytes} bytes for {table.num_rows} catalog rows is too much: give shorter article ids"
        )
    table = table.sort_by([("segment", "ascending"), ("row", "ascending")])
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=_DICTIONARIES,
        row_group_size=_ROW_GROUP,
        write_page_checksum=True,
        write_statistics=["segment", "row"],
    )
    content = sink.getvalue()
    counts = table.column("segment").value_counts().to_pylist()
    file = CatalogFile(
        name=f"part-{number:05d}-{uuid.uuid4().hex}.parquet",
        bytes=len(content),
        rows=table.num_rows,
        tokens=pc.sum(table.column("n_tokens")).as_py(),
        sha256=sha256_bytes(content),
        segments={entry["values"]: entry["counts"] for entry in sorted(counts, key=lambda entry: str(entry["values"]))},
    )
    return file, content


def read_catalog_file(
    store: Store, file: CatalogFile, columns: Sequence[str] | None = None, *, batch_rows: int = _ROW_GROUP
) -> Iterator[pa.RecordBatch]:
    """The rows of one catalog file in batches, after its size and SHA-256 have been checked.

    Raises DamageError naming the file if it is missing, not what was committed, or points outside what the manifest
    says.
    """
    key, remedy = f"{PASSAGES}/{file.name}", f"run `glimmer verify {store.location}`"
    path = store.name(key)
    wanted = list(columns) if columns is not None else CATALOG_SCHEMA.names
    unknown = set(wanted) - set(CATALOG_SCHEMA.names)
    if unknown:
        raise UsageError(f"the catalog has no columns {sorted(unknown)}")
    with translated(path, damage(path, remedy)):
        try:
            content = store.read(key, size=file.bytes)
        except FileNotFoundError:
            raise DamageError("the catalog file is missing", where=path, remedy=remedy) from None
        except DamageError as error:
            raise DamageError(f"{error}; {remedy}") from None
        if sha256_bytes(content) != file.sha256:
            raise DamageError("the bytes are not those that were committed", where=path, remedy=remedy)
        with contextlib.closing(
            pq.ParquetFile(
                pa.BufferReader(content),
                page_checksum_verification=True,
                read_dictionary=_DICTIONARIES,
                thrift_string_size_limit=_LARGEST_FOOTER,
                thrift_container_size_limit=_MOST_COLUMNS,
            )
        ) as parquet:
            _check_footer(path, file, parquet, remedy)
            for batch in parquet.iter_batches(batch_rows, columns=wanted):
                yield _plain(path, batch, remedy)


def _check_footer(path: str, file: CatalogFile, parquet: pq.ParquetFile, remedy: str) -> None:
    """Compares what the file says of itself with the manifest and the format, before a page is decompressed."""
    footer, schema = parquet.metadata, parquet.schema_arrow
    plain = pa.schema([pa.field(f.name, _value_type(f.type), nullable=f.nullable) for f in schema])
    if footer.num_rows != file.rows or not plain.equals(CATALOG_SCHEMA):
        raise DamageError("not a catalog file of this version", where=path, remedy=remedy)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    bytes_ = sum(group.column(n).total_uncompressed_size for group in groups for n in range(len(CATALOG_SCHEMA)))
    if sum(group.num_rows for group in groups) != file.rows or bytes_ > largest_bytes(file.rows):
        raise DamageError(
            f"{bytes_} bytes for {file.rows} rows is more than a catalog file has", where=path, remedy=remedy
        )


def _value_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _plain(path: str, batch: pa.RecordBatch, remedy: str) -> pa.RecordBatch:
    """`batch` without dictionaries. A long value that all rows share is found before it is repeated for each."""
    columns = []
    for column in batch.columns:
        if pa.types.is_dictionary(column.type):
            lengths = pc.binary_length(column.dictionary).take(column.indices)
            total = pc.sum(lengths.cast(pa.int64())).as_py() or 0
            if total > largest_bytes(batch.num_rows):
                raise DamageError(
                    f"{total} bytes in {batch.num_rows} rows is more than there can be", where=path, remedy=remedy
                )
            column = column.dictionary_decode()
        columns.append(column)
    fields = [CATALOG_SCHEMA.field(name) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def passage_rows(passages: Sequence[Passage], segment: str, first_row: int) -> pa.Table:
    """Catalog rows for `passages`, which stand in `segment` at rows `first_row`, `first_row + 1`, …"""
    columns: dict[str, pa.Array] = {}
    for field in CATALOG_SCHEMA:
        if field.name == "segment":
            values: Any = [segment] * len(passages)
        elif field.name == "row":
            values = np.arange(first_row, first_row + len(passages), dtype=np.int32)
        elif field.name == "n_tokens":
            values = [len(passage.tokens) for passage in passages]
        else:
            values = [getattr(passage, field.name) for passage in passages]
        columns[field.name] = pa.array(values, field.type)
    return pa.table(columns, CATALOG_SCHEMA)


def text_rows(text: TextShard, segment: str, first_row: int) -> pa.Table:
    """As `passage_rows`, for all passages of a text shard, each checked; no Python object is made for a passage."""
    computed = {
        "segment": pa.repeat(segment, text.rows),
        "row": pa.array(np.arange(first_row, first_row + text.rows, dtype=np.int32)),
        "n_tokens": pa.array(text.lengths()),
    }
    columns = text.columns([name for name in CATALOG_SCHEMA.names if name not in computed]) | computed
    return pa.table([columns[name] for name in CATALOG_SCHEMA.names], CATALOG_SCHEMA)
