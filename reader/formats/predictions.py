"""The prediction file of a job: appended line by line, continued after a crash.

`glimmer answer` writes one KILT line per query, in input order, handed to the operating system as it is made. A
second run of the same command opens the same file, drops an incomplete last line, checks that what is there answers
the first queries, and resumes after it. Nothing already answered is answered again or lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import orjson

from ... import ConflictError, InputError, MismatchError, StorageError
from ...storage.locks import lock_open_file
from .kilt import MAX_LINE_BYTES, Provenance, RecordError, parse_id, parse_json_object, prediction_line

_LINE_START = b'{"id":"'


class PredictionWriter:
    """An open prediction file; use as a context manager.

    Attributes:
        path: the file.
        completed: predictions that were there when it was opened; answering resumes with this query (counted from 0).
        written: predictions written since.

    Args:
        path: the file; its directory is made if need be.
        query_ids: ids of the queries in order; only as many are drawn as there are predictions already.
        settings: what the answers depend on (memory, version, model, counts, the query set), as JSON values. Kept
            beside the file as `<name>.settings.json`, so that a second run with other settings is refused.
        restart: drop predictions that are there.
        copy_to: a stream that gets every line as well, as soon as the file has it.

    Raises:
        StorageError: the directory or file cannot be made or written.
        InputError: the file holds something else than predictions (it is left as it is).
        MismatchError: its predictions are of other queries or other settings.
        ConflictError: another job is writing it.
    """

    def __init__(
        self,
        path: Path,
        query_ids: Iterable[str],
        *,
        settings: Mapping[str, Any] | None = None,
        restart: bool = False,
        copy_to: BinaryIO | None = None,
    ) -> None:
        self.path = path
        self._copy_to = copy_to
        self.completed = 0
        self.written = 0
        self._handle = _open_locked(path)
        try:
            end = self._complete_part(query_ids, count_only=restart)
            if restart:
                self.completed = end = 0
            self._agree_on(settings)
            self._handle.truncate(end)
            self._handle.seek(end)
            self._end = end
        except OSError as error:
            self._handle.close()
            raise StorageError(f"{path} cannot be written: {error.strerror}") from error
        except BaseException:
            self._handle.close()
            raise

    @property
    def settings_path(self) -> Path:
        """Where the settings of the predictions are kept."""
        return self.path.with_name(self.path.name + ".settings.json")

    def write(
        self,
        *,
        id: str,
        answer: str,
        provenance: Sequence[Provenance],
        probability: float | None = None,
        note: str | None = None,
    ) -> None:
        """Appends one prediction; when this returns, the operating system has it.

        Raises:
            StorageError: it could not be written whole; what was written before is safe and a second run continues.
        """
        line = prediction_line(id=id, answer=answer, provenance=provenance, probability=probability, note=note)
        try:
            if self._handle.write(line) != len(line):
                raise OSError(0, "only part of a line was accepted (disk full?)")
        except OSError as error:
            with contextlib.suppress(OSError):  # the next run would drop the torn line as well
                self._handle.truncate(self._end)
            done = self.completed + self.written
            raise StorageError(
                f"{self.path}: {error.strerror} after {done} predictions, which are safe;"
                " make room and run the same command again to continue"
            ) from error
        self._end += len(line)
        self.written += 1
        if self._copy_to is not None:
            self._copy_to.write(line)
            self._copy_to.flush()

    def close(self) -> None:
        """Forces everything to disk and lets go of the file."""
        if self._handle.closed:
            return
        try:
            os.fsync(self._handle.fileno())
        except OSError as error:
            raise StorageError(f"{self.path} cannot be forced to disk: {error.strerror}") from error
        finally:
            self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _complete_part(self, query_ids: Iterable[str], *, count_only: bool) -> int:
        """Length in bytes of the complete predictions; sets `completed`. Touches nothing."""
        # A second, buffered handle: the unbuffered one would read lines byte by byte.
        with self.path.open("rb") as reader:
            return self._check_lines(reader, iter(query_ids), count_only=count_only)

    def _check_lines(self, reader: BinaryIO, ids: Iterator[str], *, count_only: bool) -> int:
        end = 0
        while line := reader.readline(MAX_LINE_BYTES + 1):
            place = f"{self.path}:{self.completed + 1}"
            if not line.endswith(b"\n"):
                if not _is_torn_prediction(line):
                    raise InputError(f"{place}: this is not a prediction file; choose another output")
                break
            try:
                found = _prediction_id(line)
            except RecordError as problem:
                raise InputError(f"{place}: not a prediction ({problem}); choose another output") from None
            if not count_only:
                expected = next(ids, None)
                if expected is None:
                    raise MismatchError(f"{place}: more predictions than queries; choose another output")
                if found != expected:
                    raise MismatchError(
                        f"{place}: the prediction is of {found!r} but the query there is {expected!r};"
                        " these are predictions of other queries, choose another output"
                    )
            self.completed += 1
            end += len(line)
        return end

    def _agree_on(self, settings: Mapping[str, Any] | None) -> None:
        """Compares with the settings of the predictions that are there, or keeps them for the next run."""
        if settings is None:
            return
        kept = self.settings_path
        if self.completed and kept.exists():
            before = _read_settings(kept)
            now = orjson.loads(orjson.dumps(settings))
            if differing := sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
                name = differing[0]
                raise MismatchError(
                    f"{self.path} has {self.completed} predictions made with other settings"
                    f" ({', '.join(differing)}; {name} was {before.get(name)!r}, is {now.get(name)!r});"
                    " choose another output, or start anew with --restart"
                )
            return
        temporary = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
        temporary.write_bytes(orjson.dumps(settings, option=orjson.OPT_INDENT_2))
        temporary.replace(kept)


def _open_locked(path: Path) -> FileIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a line is with the operating system when write() returns, so killing the job loses none.
        handle = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "rb+")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; choose another output") from error
    try:
        free = lock_open_file(handle.fileno())
    except OSError as error:
        free = True
        # Some network file systems have no locks; the check of ids still catches a mixed-up file.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            handle.close()
            raise StorageError(f"{path} cannot be locked: {error.strerror}") from error
    if not free:
        handle.close()
        raise ConflictError(f"{path}: another job is writing this file; wait for it or choose another output")
    return handle


def _is_torn_prediction(line: bytes) -> bool:
    """Whether bytes without a line end can be a prediction cut off, or blocks a crash left zero."""
    start = line[: len(_LINE_START)]
    return _LINE_START.startswith(start) or not line.strip(b"\0")


def _prediction_id(line: bytes) -> str:
    value = parse_json_object(line)
    if "input" in value or "question" in value:
        raise RecordError("it is a query")
    output = value.get("output")
    if not isinstance(output, list) or len(output) != 1 or not isinstance(output[0], dict) or "answer" not in output[0]:
        raise RecordError("it has no output with one answer")
    return parse_id(value.get("id"))


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not the settings of a job; remove it together with its predictions")
    return value
