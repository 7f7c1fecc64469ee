"""Wikipedia as most people have it today: records with `id`, `title` and `text`, as JSON lines or as Parquet.

`text` is running text; its non-blank lines are the paragraphs, numbered from 1. Further columns (url, timestamps) are
not read. A Parquet file is read in small batches of three columns, so its size does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ... import InputError
from .article import (
    Article,
    Lines,
    Record,
    id_field,
    json_id,
    known_id,
    parse_json,
    read_records,
    text_field,
    text_paragraphs,
    title_field,
)
from .rejects import RecordError, Rejection, snippet

BATCH_ROWS = 256


def read_wikipedia(lines: Lines, name: str) -> Iterator[Record]:
    """Articles of JSON lines with id, title and text, in file order."""
    return read_records(lines, name, lambda line, place: article_of(parse_json(line), place), json_id)


def article_of(record: dict[str, Any], place: str) -> Article:
    """An article of one record with id, title (optional) and text; RecordError where that is not what it holds."""
    article_id = id_field(record, "id", "_id", "docid")
    return Article(article_id, title_field(record, "title"), text_paragraphs(text_field(record, "text")), place)


def read_wikipedia_parquet(stream: BinaryIO, name: str, advance: Callable[[float], None]) -> Iterator[Record]:
    """Articles of a Parquet file with columns id, title (optional) and text, in row order.

    `advance` is told the share of rows read so far. Raises InputError for a damaged file or missing columns.
    """
    try:
        file = pq.ParquetFile(stream, page_checksum_verification=True)
        present = set(file.schema_arrow.names)
        if missing := {"id", "text"} - present:
            found = ", ".join(sorted(present))
            raise InputError(
                f"{name}: Parquet column '{min(missing)}' is missing (found: {found}); need id, title, text"
            )
        total, row = file.metadata.num_rows, 0
        if not total:
            raise InputError(f"{name}: the Parquet file has no rows")
        columns = [c for c in ("id", "title", "text") if c in present]
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False):
            for record in _rows(batch):
                row += 1
                yield _parse(record, f"{name}:{row}")
            advance(row / total)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{name}: damaged or truncated Parquet file ({_first_line(error)}); fetch it again") from error


def _parse(record: dict[str, Any] | RecordError, place: str) -> Record:
    shown, article_id = "", ""
    try:
        if isinstance(record, RecordError):
            raise record
        shown, article_id = str(record), known_id(record)
        return article_of(record, place)
    except RecordError as error:
        return Rejection(place, error.reason, error.detail, snippet(shown), article_id)


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | RecordError]:
    """Rows as dictionaries; a row whose bytes are not UTF-8 spoils itself only, not its batch."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for row in range(batch.num_rows):
            try:
                yield batch.slice(row, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield RecordError("not_utf8", f"not valid UTF-8 at byte {error.start}")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
