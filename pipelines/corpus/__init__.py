"""Sources: whatever a corpus comes in, read as one stream of articles in a fixed order.

A source is a file, a directory, a glob, an fsspec URL or a pipe; or `tfds:` and a TensorFlow dataset. Formats are told
from content: `formats/` has a file for each, `fields` the names by which ids, titles and texts are known. Nothing is
held but the record being read; records that cannot be used come out as rejections, in their place, and files that
cannot be read as they should stop the job with an InputError that names file and line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .article import Article, Record
from .corpus import Corpus, format_names
from .rejects import Rejection

__all__ = ["Article", "Corpus", "Rejection", "format_names", "read_articles", "source_identity"]


def read_articles(
    sources: Sequence[str | os.PathLike[str]],
    *,
    format: str | None = None,
    fields: Mapping[str, str] | None = None,
    mixed: bool = False,
    advance: Callable[[float], None] | None = None,
) -> Iterator[Record]:
    """Every article of `sources`, in the order given and, inside a source, by file name and position.

    Args:
        sources, format, fields, mixed: see `Corpus`.
        advance: told, now and then, the share of all bytes read so far (0 to 1).

    Yields `Article`s and, where a record cannot be used, `Rejection`s; ids are unique over all sources, a later article
    of the same id is rejected. Raises, before anything is read, InputError for a source that is missing, empty, binary
    or of no known format and UsageError for an unknown `format`; while reading, InputError for truncated or damaged
    files and StorageError where the store fails.
    """
    return Corpus(sources, format=format, fields=fields, mixed=mixed).read(advance)


def source_identity(source: str | os.PathLike[str]) -> dict[str, Any]:
    """The content identity of one source; see `Corpus.identity`."""
    return Corpus([source]).identity()[0]
