"""Files that hold the same records as JSON lines or as a table; their first bytes tell which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..article import Record
from ..lines import line_spans
from ..record_layout import Layout
from ..source_file import SourceFile, Span, reading
from ..table_files import container_of
from .base import Advance
from .jsonlines import read_json
from .parquet_arrow import read_rows, split_table


def read_any(file: SourceFile, layout: Layout, advance: Advance) -> Iterator[Record]:
    """Articles of the file, in its order."""
    container = _container(file)
    return read_rows(file, layout, container, advance) if container else read_json(file, layout, advance)


def split_any(file: SourceFile, size: int) -> Sequence[Span]:
    """Spans of about `size` bytes; none for a file that is read whole."""
    container = _container(file)
    return split_table(file, container, size) if container else line_spans(file, size)


def _container(file: SourceFile) -> str | None:
    with reading(file) as stream:
        return container_of(stream.read(8))
