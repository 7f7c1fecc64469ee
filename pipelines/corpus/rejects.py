"""Records a job cannot use: what one is, and the dead-letter file they go to.

A source never drops a record in silence. What it cannot read becomes a `Rejection` that says where the record stands
and why it was refused; the job hands each to a `RejectLog`, which writes it to a JSON-lines file, counts it by reason
for the summary, or, in strict mode, stops the job at the first one.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

import fsspec
import orjson

from ... import InputError, StorageError
from ...storage.stores import Store
from ...storage.temporary import temporary_directory

SNIPPET_CHARACTERS: Final = 200


def snippet(raw: bytes | str) -> str:
    """The first 200 characters of a bad record, printable whatever its bytes are."""
    text = raw[: 4 * SNIPPET_CHARACTERS].decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:SNIPPET_CHARACTERS])
    return shown if len(raw) <= SNIPPET_CHARACTERS else shown + "…"


class RecordError(Exception):
    """Raised inside a source while it parses one record; the source turns it into a `Rejection` and continues."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Rejection:
    """One refused record.

    `place` is "file:line" (Parquet: "file:row"), `reason` a short stable name to count by (`broken_json`, `not_utf8`,
    `lone_surrogate`, `missing_field`, `wrong_type`, `wrong_columns`, `empty_text`, `duplicate_id`, `id_too_long`,
    `title_too_long`, `character_too_long`), `detail` what exactly is wrong, `snippet` the record's beginning,
    `article_id` the id of the article that the record stands for, "" where it cannot be told.
    """

    place: str
    reason: str
    detail: str
    snippet: str
    article_id: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.detail} ({self.reason}): {self.snippet}"


class RejectLog:
    """Counts rejections by reason and writes them, one JSON object a line, to `path` (local or an fsspec URL).

    The file is created at the first rejection, in place of one left by an earlier run. Used as a context manager, it
    closes the file, and removes a stale one after a run that ended well and rejected nothing. With `strict`, `add`
    raises InputError instead. With `path=None` rejections are only counted.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, strict: bool = False) -> None:
        self.path = None if path is None else os.fspath(path)
        self.strict = strict
        self.counts: Counter[str] = Counter()
        self._file: BinaryIO | None = None

    def add(self, rejection: Rejection) -> None:
        """Record one rejection. Raises InputError in strict mode, StorageError where the file cannot be written."""
        if self.strict:
            raise InputError(f"{rejection}; drop --strict to set such records aside")
        self.counts[rejection.reason] += 1
        if self.path is None:
            return
        try:
            if self._file is None:
                self._file = self._open(self.path)
            self._file.write(orjson.dumps(rejection, option=orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Flush and close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as error:
                raise self._cannot_write(error) from error

    def remove_stale(self) -> None:
        """After a run that rejected nothing: remove the file an earlier run left, so that it misleads nobody."""
        if self.path is None or self.counts:
            return
        try:
            filesystem, inner = fsspec.core.url_to_fs(self.path)
            if filesystem.exists(inner):
                filesystem.rm_file(inner)
        except OSError as error:
            raise self._cannot_write(error) from error

    def __enter__(self) -> RejectLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        if kind is None:
            self.remove_stale()

    def _cannot_write(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write rejected records to {self.path}: {error}; choose another place")

    @staticmethod
    def _open(path: str) -> BinaryIO:
        filesystem, inner = fsspec.core.url_to_fs(path, auto_mkdir=True)
        file: BinaryIO = filesystem.open(inner, "wb")
        return file


@contextlib.contextmanager
def reject_file(store: Store, key: str) -> Iterator[Path]:
    """The path for a `RejectLog` whose file is `key` of a memory; put there at the end if the memory has no files."""
    path = store.local_path(key)
    if path is not None:
        yield path
        return
    with temporary_directory("glimmer-rejects-") as directory:
        path = directory / key.rpartition("/")[2]
        try:
            yield path
        finally:
            if path.exists():
                store.put(key, path.read_bytes())
            else:
                store.delete(key)


def reject_place(store: Store, key: str) -> Path | str | None:
    """Where the rejected records of a job are, for people; None if there are none."""
    return (store.local_path(key) or store.name(key)) if store.exists(key) else None
