"""A sealed directory: derived files with a manifest that has the size and SHA-256 of each, and a digest of itself.

The first-stage index is one. Its library believes whatever bytes it finds, so they are compared with the manifest
before it sees them, once a process for each file: what a file's device, inode, size and times say is the same file is
not read again.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from ... import DamageError
from ..files import read_regular, sha256_bytes, sha256_file
from ..segment_layout import is_sha256

DIGEST: Final = "manifest_sha256"
LARGEST_MANIFEST: Final = 1 << 20
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_AT_ONCE = min(4, os.cpu_count() or 1)
_SETTLED_NS = 100_000_000
"""A file changed later than so long before it is read could change again within the same tick of the clock."""

_Stamp = tuple[int, int, int, int, int]
_known: dict[_Stamp, str] = {}
_lock = threading.Lock()


def seal(directory: Path, manifest: str, content: Mapping[str, Any]) -> None:
    """Writes the file `manifest` of `directory`: `content`, JSON values, and all files that are there now.

    Files whose names begin with a dot are left out. Raises OSError.
    """
    files = {}
    for path in sorted(directory.iterdir()):
        if path.name != manifest and not path.name.startswith("."):
            sha256, size = sha256_file(path)
            files[path.name] = {"bytes": size, "sha256": sha256}
    (directory / manifest).write_bytes(_with_digest({**content, "files": files}))


def read_seal(path: Path) -> dict[str, Any] | None:
    """The content of a manifest, without its digest and with `files`; None for one of format 1, which had no digest.

    Raises DamageError if a byte of it is not what was written, FileNotFoundError and other OSErrors as `open` does.
    """
    return parse_seal(read_regular(path, most=LARGEST_MANIFEST), path)


def parse_seal(raw: bytes, path: Path | str) -> dict[str, Any] | None:
    """As `read_seal`, of the bytes `raw` of a manifest, which messages call `path`."""
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        raise DamageError("not JSON", where=path) from None
    if not isinstance(record, dict):
        raise DamageError("not a JSON object", where=path)
    if DIGEST not in record and record.get("format_version") == 1:
        return None
    content = {name: value for name, value in record.items() if name != DIGEST}
    if raw != _with_digest(content):
        raise DamageError("fails its own digest", where=path)
    if not _is_file_list(content.get("files")):
        raise DamageError("its list of files is malformed", where=path)
    return content


def damaged_files(directory: Path, files: Mapping[str, Mapping[str, Any]], *, afresh: bool = False) -> dict[str, str]:
    """Name -> what is wrong, of the `files` of a manifest that are missing or not what was written.

    Files are hashed a few at a time, at the speed of SHA-256; with `afresh` also those that this process has hashed
    before. Raises OSError when a file cannot be read.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="hash") as pool:
        found = pool.map(lambda name: _problem(directory / name, files[name], afresh), files)
        return {name: problem for name, problem in zip(files, found, strict=True) if problem is not None}


def stamps(directory: Path, names: Iterable[str]) -> list[tuple[int, int, int]]:
    """Device, inode and time of `directory` and of files in it: others mean that it was replaced. Raises OSError."""
    statuses = [os.stat(directory), *(os.stat(directory / name) for name in names)]
    return [(status.st_dev, status.st_ino, status.st_mtime_ns) for status in statuses]


def _problem(path: Path, expected: Mapping[str, Any], afresh: bool) -> str | None:
    try:
        status = path.stat()
        if path.is_file() and status.st_size != expected["bytes"]:
            return f"has {status.st_size} bytes, expected {expected['bytes']}"
        sha256 = _sha256(path, status, afresh)
    except FileNotFoundError:
        return "is missing"
    except DamageError:
        return "is not a plain file"
    return None if sha256 == expected["sha256"] else "its SHA-256 is not the recorded one"


def _sha256(path: Path, status: os.stat_result, afresh: bool) -> str:
    stamp = _stamp(status)
    with _lock:
        known = None if afresh else _known.get(stamp)
    if known is not None:
        return known
    settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS
    sha256, _ = sha256_file(path)
    if settled and _stamp(path.stat()) == stamp:
        with _lock:
            _known[stamp] = sha256
    return sha256


def _stamp(status: os.stat_result) -> _Stamp:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _with_digest(content: Mapping[str, Any]) -> bytes:
    """A manifest as it is written: every byte of it follows from `content`."""
    digest = sha256_bytes(_text(content))
    return _text({**content, DIGEST: digest})


def _text(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _is_file_list(files: Any) -> bool:
    return isinstance(files, dict) and all(
        _FILE_NAME.fullmatch(name) is not None
        and isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and is_sha256(entry.get("sha256"))
        for name, entry in files.items()
    )
