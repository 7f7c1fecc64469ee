"""People's own output files: written whole or not at all, to whatever kind of place the name stands for.

`-` is standard output. A FIFO, a terminal, `/dev/stdout` or another device is written to and never replaced. A link is
followed, and the file it leads to is replaced. Parent directories are made. Every command that writes a file for people
writes it through here, so that all of them behave the same.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from .. import StorageError, UsageError
from . import temporary
from .paths import local_path, same_file
from .printable import printable_json

STDOUT: Final = "-"
_DESCRIPTOR: Final = re.compile(r"/dev/(stdout|stderr)|/dev/fd/(\d{1,9})|/proc/self/fd/(\d{1,9})")

Place = str | os.PathLike[str]


def is_stream(output: Place) -> bool:
    """Whether `output` is written as it comes: `-`, a FIFO, a socket, a device. It cannot be replaced or resumed."""
    if _descriptor(output) is not None:
        return True
    try:
        mode = local_path(output).stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def check_output(output: Place, option: str, others: Mapping[str, Place | None] | None = None) -> None:
    """Checks, before any work, that `output` can be written and destroys nothing the command reads or writes.

    Args:
        output: the file, or `-`.
        option: what the command calls it, such as `--report`.
        others: what else the command reads or writes, by what it calls it, such as `the query file`; None values and
            names that are no paths are passed over.

    Raises UsageError where `output` is one of `others` or lies in a directory of them, StorageError where it cannot be
    written. Parents are made.
    """
    for name, other in (others or {}).items():
        if other is None:
            continue
        if os.fspath(output) == STDOUT or os.fspath(other) == STDOUT:
            clash = os.fspath(output) == os.fspath(other) and name.startswith("--")  # standard input is no clash
        else:
            clash = _within(local_path(output), Path(other).expanduser())
        if clash:
            raise UsageError(f"{option} {os.fspath(output)} would overwrite {name}; choose another {option}")
    if is_stream(output):
        return
    target = _target(output)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(21, "is a directory")
        probe = temporary.temporary_path(_beside(target))
        probe.touch()
        temporary.remove(probe)
    except OSError as error:
        raise _unwritable(output, option, error) from error


def holds_already(output: Place, parts: Iterable[bytes]) -> bool:
    """Whether `output` is a file that holds `parts`, one after another, and no more; reads up to what differs."""
    if is_stream(output):
        return False
    try:
        with _target(output).open("rb") as file:
            return all(file.read(len(part)) == part for part in parts) and not file.read(1)
    except OSError:  # not there, most of all; whatever else is wrong with it, writing tells
        return False


@contextlib.contextmanager
def writing(output: Place, option: str = "--output") -> Iterator[BinaryIO]:
    """Opens `output` for writing; a file appears, with all of its content, when the block ends without an error.

    A file that was there keeps its permissions. Raises StorageError where the file system refuses; BrokenPipeError
    passes, for it says that a reader had enough.
    """
    if os.fspath(output) == STDOUT:
        yield cast(BinaryIO, _Terminal()) if sys.stdout.isatty() else sys.stdout.buffer
        sys.stdout.flush()
        return
    if is_stream(output):
        descriptor = _descriptor(output)
        try:
            with open(
                os.open(local_path(output), os.O_WRONLY | os.O_CLOEXEC) if descriptor is None else os.dup(descriptor),
                "wb",
            ) as stream:
                yield stream
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _unwritable(output, option, error) from error
        return
    target = _target(output)
    unfinished = temporary.temporary_path(_beside(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.chmod(unfinished, stat.S_IMODE(target.stat().st_mode))
        os.replace(unfinished, target)
        temporary.release(unfinished)
    except OSError as error:
        raise _unwritable(output, option, error) from error
    finally:
        if unfinished.exists():
            temporary.remove(unfinished)


class _Terminal(io.RawIOBase):
    """Standard output that is a terminal: what is written is shown without control characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        sys.stdout.write(printable_json(self._decoder.decode(bytes(data))))
        return len(data)


def _descriptor(output: Place) -> int | None:
    """The open file that `-`, `/dev/stdout` or `/dev/fd/3` stands for: written where it stands, whatever it is."""
    name = os.fspath(output)
    if name == STDOUT:
        return 1
    found = _DESCRIPTOR.fullmatch(name)
    if found is None:
        return None
    return {"stdout": 1, "stderr": 2}.get(found.group(1) or "") or int(found.group(2) or found.group(3))


def _within(output: Path, other: Path) -> bool:
    """Whether `output` is `other`, or lies in it where that is a directory; links followed."""
    if same_file(output, other):
        return True
    return other.is_dir() and Path(os.path.realpath(output)).is_relative_to(os.path.realpath(other))


def _target(output: Place) -> Path:
    """The file that `output` leads to: links are followed, also a link to a file that is not there yet."""
    return Path(os.path.realpath(local_path(output)))


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")


def _unwritable(output: Place, option: str, error: OSError) -> StorageError:
    return StorageError(
        f"{os.fspath(output)} cannot be written: {error.strerror or error}; make room or choose another {option}"
    )
