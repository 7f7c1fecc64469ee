"""Files as storage needs them: whole or absent, flushed to disk, hashed, and with errors that say what to do.

Everything Glimmer writes itself goes through `write_atomic` (temporary name, fsync, rename, fsync of the directory),
so a crash leaves the old file or the new one. What the libraries below us raise (TensorStore, Delta Lake, Arrow, the
operating system) is turned into Glimmer's own errors by `translated`, in one place, so that the rules are the same
everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from .. import DamageError, GlimmerError, StorageError

TEMPORARY_PREFIX = ".tmp-"
"""Names that begin so are never read: leftovers of a killed process, deleted by vacuum."""
REMOVED_PREFIX = f"{TEMPORARY_PREFIX}removed-"
"""Of directories that were being deleted when the process was killed."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space or choose another place, then run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place, then run the same command again",
    errno.EROFS: "the file system is read-only; choose a place that can be written",
    errno.EACCES: "permission denied; check the owner and mode of this path",
    errno.EPERM: "operation not permitted; check the owner and mode of this path",
    errno.EMFILE: "too many open files; raise the limit with `ulimit -n`",
    errno.ENFILE: "too many open files on this machine",
    errno.EIO: "the device reported an input/output error; check the disk, then run `glimmer verify`",
}
# The C++ and Rust libraries give no errno, only text.
_TEXT_CODES = (
    ("no space left on device", errno.ENOSPC),
    ("disk quota exceeded", errno.EDQUOT),
    ("read-only file system", errno.EROFS),
    ("permission denied", errno.EACCES),
    ("permission_denied", errno.EACCES),
    ("operation not permitted", errno.EPERM),
    ("too many open files", errno.EMFILE),
    ("input/output error", errno.EIO),
)
# What TensorStore and Delta Lake say of an object store: they repeat requests themselves and give up in the end.
_REMOTE_TEXTS = (
    (
        ("permission_denied", "unauthenticated", "lacked the necessary privileges", "http response code: 403"),
        "check the credentials and what they may do",
    ),
    (
        (
            "unavailable:",
            "deadline_exceeded",
            "aborted:",
            "resource_exhausted",
            "all retry attempts failed",
            "error sending request",
            "generic s3 error",
            "generic gcs error",
        ),
        "check the endpoint and the network, then run the same command again",
    ),
)


def storage_error(path: Path | str, error: BaseException) -> StorageError | None:
    """The StorageError for `error` if the file system refused (disk full, read-only, permission …), else None."""
    if isinstance(path, str) and "://" in path and (refused := _remote_refusal(path, error)) is not None:
        return refused
    code = error.errno if isinstance(error, OSError) else None
    if code not in _REMEDIES:
        text = str(error).lower()
        code = next((number for words, number in _TEXT_CODES if words in text), None)
    if code is None:
        return None
    place = error.filename if isinstance(error, OSError) and isinstance(error.filename, str) else path
    return StorageError(_REMEDIES[code], where=place)


def _remote_refusal(place: str, error: BaseException) -> StorageError | None:
    """The StorageError for `error` if an object store refused another library or did not answer it, else None."""
    text = str(error).lower()
    for words, remedy in _REMOTE_TEXTS:
        if any(word in text for word in words):
            what = one_line(error, 200).split(" Debug source")[0]
            return StorageError(f"the object store did not serve it: {what}", where=place, remedy=remedy)
    return None


def one_line(error: BaseException, limit: int = 300) -> str:
    """The text of `error` on one line, cut at `limit` characters and before a Rust backtrace."""
    text = " ".join(_COLOURS.sub("", str(error)).split("\n   0: ")[0].split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


@contextlib.contextmanager
def translated(path: Path | str, otherwise: Callable[[str], GlimmerError]) -> Iterator[None]:
    """Turns foreign exceptions raised inside into Glimmer's: StorageError if the file system refused, or `otherwise`.

    `otherwise` receives the foreign message on one line and returns the error to raise. Rust panics, which do not
    derive from Exception, are translated too, and so is MemoryError, which a damaged size in a file leads to;
    KeyboardInterrupt and SystemExit pass through untouched.
    """
    try:
        yield
    except GlimmerError:
        raise
    except MemoryError as error:
        raise otherwise("it asks for more memory than there is") from error
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise storage_error(path, error) or otherwise(one_line(error)) from error


def damage(path: Path | str, remedy: str) -> Callable[[str], GlimmerError]:
    """For `translated`: a DamageError that names `path`, the cause and the remedy."""
    return lambda text: DamageError(text, where=path, remedy=remedy)


def sync_directory(directory: Path) -> None:
    """Flushes `directory`'s entries, so that a renamed file survives a power cut."""
    sync_file(directory, os.O_DIRECTORY)


def sync_file(path: Path, flags: int = 0) -> None:
    """Flushes what others have written of the file at `path`."""
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directories(directory: Path) -> None:
    """`mkdir -p` whose failures say what to do."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(directory, error) or StorageError(one_line(error), where=directory) from error


def write_atomic(path: Path, write: Callable[[BinaryIO], None] | bytes) -> None:
    """Writes `path` so that it holds all of the new content or stays what it was; flushed when this returns.

    The directory must exist. Raises StorageError (disk full, read-only, permission); nothing is left behind then.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as file:
            if isinstance(write, bytes):
                file.write(write)
            else:
                write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        refused = storage_error(path, error) if isinstance(error, Exception) else None
        if refused is not None and not isinstance(error, GlimmerError):
            raise refused from error
        raise


def sha256_bytes(data: bytes | memoryview) -> str:
    """SHA-256 of `data` in lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def open_regular(path: Path) -> io.BufferedReader:
    """Opens a plain file for reading; links are followed. Whatever a memory consists of is read through this.

    A FIFO, a device (a link to `/dev/zero` has no end) or a directory is a DamageError at once; OSError as `open` does.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # before it is opened, which can have effects on a device
        raise DamageError("not a plain file", where=path, remedy="put back the file that was written")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamageError("not a plain file", where=path, remedy="put back the file that was written")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, *, size: int | None = None, most: int | None = None) -> bytes:
    """The bytes of a plain file, which has `size` of them or at most `most`: looked at before any is read.

    Raises DamageError for another size or kind of file, OSError as `open` does.
    """
    limit = size if size is not None else most
    with open_regular(path) as file:
        found = os.fstat(file.fileno()).st_size
        if size is not None and found != size:
            raise DamageError(
                f"has {found} bytes, expected {size}", where=path, remedy="put back the file that was written"
            )
        if limit is not None and found > limit:
            raise DamageError(f"has {found} bytes, more than such a file ever has ({limit})", where=path)
        content = file.read(found + 1)
    if len(content) != found:
        raise DamageError("its size changes while it is read", where=path)
    return content


def sha256_file(path: Path) -> tuple[str, int]:
    """SHA-256 in hex and size in bytes of the plain file at `path`, read in blocks; raises as `open_regular` does."""
    digest, size, block = hashlib.sha256(), 0, memoryview(bytearray(1 << 20))
    with open_regular(path) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            size += count
    return digest.hexdigest(), size


def file_system_time(directory: Path) -> float:
    """What time the file system that holds `directory` thinks it is, in seconds; the machine's own if it is full."""
    probe = directory / f"{TEMPORARY_PREFIX}clock-{secrets.token_hex(4)}"
    with translated(directory, lambda text: StorageError(text, where=directory)):
        try:
            probe.touch()
            return probe.stat().st_mtime
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return time.time()  # a vacuum is wanted most when the disk is full
        finally:
            probe.unlink(missing_ok=True)
