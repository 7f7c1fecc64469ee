"""Paths as people type them, made into the one form that everything below can use.

A path enters the program in many shapes: relative, with `..`, with `~`, as a `file://` URL. TensorStore refuses `..`,
Delta Lake wants absolute paths, a Beam worker has another working directory. So every job turns a path into an absolute
one first, here, before anything is read or computed.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path
from typing import Final

from .. import UsageError

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def local_path(name: str | os.PathLike[str]) -> Path:
    """`name` as an absolute path without `..`; `~` and `file://` are understood.

    Links are kept as they are unless the path has a `..`, which only the file system can resolve. Nothing needs to
    exist. Raises UsageError for an empty path, one with a NUL character, and for a URL of any other scheme: those
    would otherwise become directories named `s3:`.
    """
    text = os.fspath(name)
    if not text or "\0" in text:
        raise UsageError(f"{text!r} is not a path: it is empty or holds a NUL character; name a file or a directory")
    scheme = _SCHEME.match(text)
    if scheme is not None:
        if scheme.group(1).lower() != "file":
            raise UsageError(
                f"{text}: {scheme.group(1)}:// is not supported here; name a local path (corpus sources may be URLs)"
            )
        url = urllib.parse.urlsplit(text)
        if url.netloc not in ("", "localhost") or not url.path:
            raise UsageError("a file URL looks like file:///directory/name", where=text)
        text = urllib.parse.unquote(url.path)
    path = Path(os.path.abspath(".")) / Path(text).expanduser() if not os.path.isabs(text) else Path(text)
    return Path(os.path.realpath(path)) if ".." in path.parts else path


def same_file(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> bool:
    """Whether two paths lead to one file, links followed; also for files that are not there yet."""
    try:
        return os.path.samefile(first, second)
    except OSError:
        return os.path.realpath(first) == os.path.realpath(second)
