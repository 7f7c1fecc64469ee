"""Sources: whatever a corpus comes in, read as one stream of articles in a fixed order.

A source is a file, a directory, a glob or an fsspec URL holding a KILT knowledge source, Wikipedia as JSON lines or
Parquet, DPR's or MS MARCO's TSV; or `tfds:` and a TensorFlow dataset. Formats are told from content. Nothing is held
but the record being read; records that cannot be used come out as rejections, in their place, and files that cannot
be read as they should stop the job with an InputError that names file and line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ... import InputError, UsageError
from .article import Article, Record
from .detect import FORMATS, check_readable, detect, is_parquet
from .files import SourceFile, is_url, read_lines, reading, resolve
from .idset import IdSet
from .kilt import read_kilt
from .rejects import Rejection, snippet
from .tfds import PREFIX, is_dataset_directory, read_tfds, tfds_identity
from .tsv import read_dpr, read_msmarco
from .wikipedia import read_wikipedia, read_wikipedia_parquet

__all__ = ["FORMATS", "Article", "Rejection", "read_articles", "source_identity"]

_LINE_READERS = {"kilt": read_kilt, "wikipedia": read_wikipedia, "dpr": read_dpr, "msmarco": read_msmarco}
_Advance = Callable[[float], None]


def read_articles(
    sources: Sequence[str | os.PathLike[str]],
    *,
    format: str | None = None,
    advance: _Advance | None = None,
) -> Iterator[Record]:
    """Every article of `sources`, in the order given and, inside a source, by file name and position.

    Args:
        sources: local paths, globs, directories, fsspec URLs, or `tfds:` names.
        format: one of FORMATS, or None to tell it from each file's content.
        advance: told, now and then, the share of all bytes read so far (0 to 1).

    Yields `Article`s and, where a record cannot be used, `Rejection`s; ids are unique over all sources, a later article
    of the same id is rejected. Raises, before anything is read, InputError for a source that is missing, empty, binary
    or of no known format and UsageError for an unknown `format`; while reading, InputError for truncated or damaged
    files and StorageError where the store fails.
    """
    parts = _parts([os.fspath(s) for s in sources], format)
    return _unique(_read(parts, advance or (lambda share: None)))


def source_identity(source: str | os.PathLike[str]) -> dict[str, Any]:
    """What a job's id needs to know of a source to tell whether it changed; cheap, no content is read.

    Local files: absolute path, size, modification time in ns. URLs: path, size, fsspec's `ukey`. Datasets: full name,
    directory, size, examples per split. JSON-able. Raises InputError for a source that is not there.
    """
    name = os.fspath(source)
    if _is_tfds(name):
        return tfds_identity(name)
    files = [
        {"path": f.name if is_url(f.name) else os.path.realpath(f.name), "size": f.size, "stamp": f.stamp}
        for f in resolve(name)
    ]
    return {"kind": "files", "files": files}


def _is_tfds(source: str) -> bool:
    return source.startswith(PREFIX) or is_dataset_directory(source)


def _parts(sources: list[str], format: str | None) -> list[tuple[str | SourceFile, str, int]]:
    """(file or dataset name, format, bytes) of all sources; every file is looked at before the first is read."""
    if format is not None and format not in FORMATS:
        raise UsageError(f"unknown format '{format}'; known: {', '.join(FORMATS)}")
    if not sources:
        raise UsageError("no source given")
    parts: list[tuple[str | SourceFile, str, int]] = []
    for source in sources:
        if _is_tfds(source) or format == "tfds":
            parts.append((source, "tfds", max(1, int(tfds_identity(source)["bytes"]))))
            continue
        for file in resolve(source):
            if format is None:
                kind = detect(file)
            else:
                check_readable(file)
                kind = format
                if kind != "wikipedia" and is_parquet(file):
                    raise InputError(f"{file.name}: a Parquet file, not {kind}; leave --format out or say wikipedia")
            parts.append((file, kind, max(1, file.size)))
    return parts


def _read(parts: list[tuple[str | SourceFile, str, int]], advance: _Advance) -> Iterator[Record]:
    total = sum(size for _, _, size in parts)
    before = 0
    for part, kind, size in parts:

        def move(share: float, before: int = before, size: int = size) -> None:
            advance((before + share * size) / total)

        if isinstance(part, str):
            yield from read_tfds(part, move)
        elif kind == "wikipedia" and is_parquet(part):
            with reading(part) as stream:
                yield from read_wikipedia_parquet(stream, part.name, move)
        else:
            yield from _LINE_READERS[kind](read_lines(part, move), part.name)
        before += size


def _unique(records: Iterator[Record]) -> Iterator[Record]:
    seen = IdSet()
    for record in records:
        if isinstance(record, Article) and not seen.add(record.article_id):
            detail = f"article id '{record.article_id}' was read before"
            shown = snippet(record.title or record.paragraphs[0])
            yield Rejection(record.place, "duplicate_id", detail, shown, record.article_id)
        else:
            yield record
