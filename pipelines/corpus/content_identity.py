"""The content identity of a source: what tells whether its content changed, wherever it lies and whoever copied it.

Of a local file, a stream and a TensorFlow dataset it is size and SHA-256 of the whole content. A digest of a file's
ends would be quicker and would miss an edit of equal length in between: an interrupted job would resume with text that
is no longer there, and a finished one would have "nothing to do". Modification times are no part of it, so a corpus
copied anew resumes; nor are digests kept by modification time, since `cp -p` and `rsync -t` set it. Hashing takes about
a thousandth of the time of planning the same bytes, which every job does (`benchmarks/source_identity.py`: 0.001), and
the files of a source are hashed several at once.

Of a URL it is what the store says: an MD5, else an ETag, else all it tells if that has a time of change. Where a store
tells none of these, the file is read and hashed.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from .source_file import SourceFile, reading

BLOCK_BYTES: Final = 1 << 20
MOST_THREADS: Final = 8
_MD5: Final = ("md5hash", "content-md5", "content_md5", "md5")
_ETAG: Final = ("etag",)
_TIMES: Final = ("mtime", "modified", "lastmodified", "last-modified", "last_modified", "updated", "created")

Advance = Callable[[float], None]


def content_identities(files: Sequence[SourceFile], advance: Advance | None = None) -> list[dict[str, Any]]:
    """The identity of each of `files`, in their order; JSON-able.

    `advance` is told, now and then and from several threads, the share of all bytes hashed so far (0 to 1). Raises
    InputError where a file cannot be opened, StorageError where it cannot be read.
    """
    total = sum(file.size for file in files)
    lock, done = threading.Lock(), 0

    def count(read: int) -> None:
        nonlocal done
        with lock:
            done += read
            share = min(1.0, done / max(1, total))
        if advance is not None:
            advance(share)

    threads = max(1, min(MOST_THREADS, os.cpu_count() or 1, len(files)))
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
        running = [pool.submit(_identity, file, count) for file in files]
        try:
            return [future.result() for future in running]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _identity(file: SourceFile, count: Callable[[int], None]) -> dict[str, Any]:
    if file.stream is not None:  # hashed while it was copied
        return {"size": file.size, "sha256": file.stamp}
    if file.filesystem is not None and (told := _told_by_store(file)) is not None:
        return {"size": file.size, **told}
    digest, size = hashlib.sha256(), 0
    with reading(file) as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            size += len(block)
            count(len(block))
    return {"size": size, "sha256": digest.hexdigest()}


def _told_by_store(file: SourceFile) -> dict[str, str] | None:
    """What the store of a URL says about its content, None if nothing that follows it."""
    info = {str(key).lower(): value for key, value in file.info().items()}
    if (md5 := _first(info, _MD5)) is not None:
        return {"md5": md5}
    if (etag := _first(info, _ETAG)) is not None:
        return {"url": file.name, "etag": etag}
    if _first(info, _TIMES) is not None:
        return {"url": file.name, "info": hashlib.sha256(repr(sorted(info.items())).encode()).hexdigest()}
    return None


def _first(info: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((str(info[key]) for key in keys if info.get(key)), None)
