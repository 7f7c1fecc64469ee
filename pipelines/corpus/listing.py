"""Files behind a source: a local path, a directory, a glob, a pipe or an fsspec URL, in a fixed order.

What lies in a directory beside the corpus is left out and named: hidden files, empty ones, metadata, and the questions
and judgements of a retrieval benchmark.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from typing import Any, Final

import fsspec
import orjson

from ... import InputError, StorageError
from ...storage.inputs import STDIN, input_file
from ...storage.paths import local_path
from .lines import read_lines as read_lines
from .source_file import SourceFile, reading

SAVED_STATE: Final = "state.json"  # of Hugging Face's save_to_disk
Sources = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One source or several: paths, directories, globs, fsspec URLs, `-` or `tfds:` names."""

_METADATA: Final = frozenset({"dataset_info", "dataset_dict", "readme", "license", "licence"})  # before the first dot
_MOST_STATE_BYTES: Final = 1 << 26


def source_names(sources: Sources) -> list[str]:
    """The sources as a list of names; one string or path is one source."""
    return [os.fspath(each) for each in ([sources] if isinstance(sources, str | os.PathLike) else sources)]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not read, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of one source; `several` says that it may hold more than one, so that an empty one is no error."""

    files: list[SourceFile]
    skipped: list[Skipped] = field(default_factory=list)
    several: bool = False


def is_url(source: str) -> bool:
    """Whether `source` is an fsspec URL such as gs://bucket/path; `file://` is a local path."""
    return "://" in source and not source.lower().startswith("file://")


def resolve(source: str) -> list[SourceFile]:
    """The files a source names, in a fixed order (sorted by path). Raises InputError when there is nothing to read."""
    return list_files(source).files


def list_files(source: str) -> Listing:
    """The files a source names, sorted by path, and those that are left out.

    A directory stands for every file under it. `-` is standard input. Raises InputError when there is nothing to read.
    """
    if source == STDIN:
        return Listing([_single(source)])
    if is_url(source):
        return _list_url(source)
    path = local_path(source)
    if path.is_dir():
        return _selected(source, _entries(source, path))
    if path.exists() or not has_magic(source):
        return Listing([_single(source)])
    matched = [p for p in sorted(glob(str(path), recursive=True)) if not os.path.isdir(p)]
    if not matched:
        raise InputError(f"{source}: no file matches; check the pattern")
    relative = not (os.path.isabs(source) or source.startswith("~") or "://" in source)
    entries = [(p, _entry(os.path.relpath(p) if relative else p, Path(p))) for p in matched]
    return _selected(source, entries, hide=False)


def _single(source: str) -> SourceFile:
    file = input_file(source)
    copied = isinstance(file.stamp, str)
    return SourceFile(file.name, file.size, file.stamp, path=file.path, stream=file if copied else None)


def _entries(source: str, root: Path) -> list[tuple[str, SourceFile | Skipped]]:
    """(path inside the directory, file) of everything under `root` that is not a directory."""
    base = root if source.startswith("~") or "://" in source else Path(source)
    found = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if not path.is_dir():
            found.append((relative.as_posix(), _entry(str(base / relative), path)))
    return found


def _entry(name: str, path: Path) -> SourceFile | Skipped:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{name}: a link to a file that is not there; mend or remove it") from error
    except OSError as error:
        raise StorageError(f"{name}: cannot be read: {error.strerror}; check its permissions") from error
    if not stat.S_ISREG(status.st_mode):
        return Skipped(name, "not a regular file")
    return SourceFile(name, status.st_size, status.st_mtime_ns, path=path)


def _list_url(source: str) -> Listing:
    try:
        filesystem, path = fsspec.core.url_to_fs(source)
    except (ImportError, ValueError) as error:
        raise InputError(f"{source}: {error}; install the extra of that store (gcp, s3)") from error
    try:
        if has_magic(path):
            found, root, several = sorted(p for p in filesystem.glob(path) if filesystem.isfile(p)), "", True
        elif filesystem.isdir(path):
            found, root, several = sorted(filesystem.find(path)), path.rstrip("/") + "/", True
        else:
            found, root, several = [path] if filesystem.exists(path) else [], "", False
        if not found:
            raise InputError(f"{source}: nothing to read there; check the URL")
        entries = [(p.removeprefix(root), _url_file(filesystem, p)) for p in found]
    except OSError as error:
        raise InputError(f"{source}: cannot be listed: {error}") from error
    return _selected(source, entries, hide=bool(root)) if several else Listing([file for _, file in entries])


def _url_file(filesystem: Any, path: str) -> SourceFile:
    name = str(filesystem.unstrip_protocol(path))
    return SourceFile(name, int(filesystem.size(path) or 0), None, filesystem)


def _selected(source: str, entries: Sequence[tuple[str, SourceFile | Skipped]], *, hide: bool = True) -> Listing:
    """The files of a directory or glob that may hold articles; `entries` have their path inside it.

    `hide` leaves out names that begin with "." or "_": a glob that matches one means it.
    """
    paths = [relative for relative, _ in entries]
    saved = {
        parent: names
        for relative, file in entries
        if isinstance(file, SourceFile) and PurePosixPath(relative).name == SAVED_STATE
        for parent, names in [(str(PurePosixPath(relative).parent), _saved_names(file))]
        if names is not None
    }
    benchmarks = _benchmarks(paths)
    files: list[SourceFile] = []
    skipped: list[Skipped] = []
    for relative, file in entries:
        if isinstance(file, Skipped):
            skipped.append(file)
        elif hide and any(part.startswith((".", "_")) for part in relative.split("/")):
            skipped.append(Skipped(file.name, "hidden"))
        elif (reason := _reason(PurePosixPath(relative), file, saved, benchmarks)) is not None:
            skipped.append(Skipped(file.name, reason))
        else:
            files.append(file)
    for parent, names in saved.items():
        if missing := [name for name in names if str(PurePosixPath(parent) / name) not in paths]:
            raise InputError(f"{source}: {missing[0]}, which {parent}/{SAVED_STATE} names, is missing; copy it again")
    if not files:
        why = f" (skipped: {', '.join(sorted({s.reason for s in skipped}))})" if skipped else ""
        raise InputError(f"{source}: no files to read there{why}; check the path")
    return Listing(files, skipped, several=True)


def _reason(
    path: PurePosixPath, file: SourceFile, saved: dict[str, list[str]], benchmarks: set[PurePosixPath]
) -> str | None:
    """Why a file of a directory is left out; None for one that may hold articles."""
    metadata = path.name.lower().split(".")[0] in _METADATA
    if (names := saved.get(str(path.parent))) is not None:
        if path.name in names:
            return None
        return "metadata" if metadata or path.name == SAVED_STATE else f"not named by {SAVED_STATE}"
    if metadata:
        return "metadata"
    if any(parent in benchmarks for parent in _beside_corpus(path)):
        return "questions or judgements"
    return "empty" if not file.size else None


def _saved_names(file: SourceFile) -> list[str] | None:
    """The data files that a `state.json` of `save_to_disk` names; None where it is some other file."""
    with reading(file) as stream:
        content = stream.read(_MOST_STATE_BYTES)
    try:
        state = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(state, dict) or not isinstance(state.get("_data_files"), list):
        return None
    names = [item.get("filename") if isinstance(item, dict) else None for item in state["_data_files"]]
    if not all(isinstance(name, str) and name and "/" not in name and name not in (".", "..") for name in names):
        raise InputError(f"{file.name}: names data files that are not in its own directory; save the dataset again")
    if state.get("_indices_data_files"):
        raise InputError(f"{file.name}: the dataset is a selection of its rows; save it after flatten_indices()")
    return [str(name) for name in names]


def _benchmarks(paths: Iterable[str]) -> set[PurePosixPath]:
    """Directories that hold a file or directory called `corpus`, as BEIR's do."""
    found: set[PurePosixPath] = set()
    for path in map(PurePosixPath, paths):
        parts = path.parts
        found.update(
            PurePosixPath(*parts[:i]) for i, part in enumerate(parts) if part.split(".")[0].lower() == "corpus"
        )
    return found


def _beside_corpus(path: PurePosixPath) -> Iterable[PurePosixPath]:
    """The directories in which `path`, or a directory above it, is called queries or qrels."""
    parts = path.parts
    return (PurePosixPath(*parts[:i]) for i, p in enumerate(parts) if p.split(".")[0].lower() in ("queries", "qrels"))
