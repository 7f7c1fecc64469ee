"""`indexes/<version>/`: what can always be rebuilt from one version. Here, where its id map is found, or else built.

The first-stage index is the reader's; here stands where it is, and how its damage is told.

The id map is built before the commit that needs it, from the very files the commit names, so a commit that would list
a passage twice is stopped. If it is missing or damaged it is built again; where the memory cannot be written, in the
user's cache directory, or as a last resort in a temporary one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import weakref
from collections.abc import Iterator
from pathlib import Path

from .. import DamageError, StorageError
from . import temporary
from .catalog import Catalog
from .files import TEMPORARY_PREFIX, make_directories
from .idmap import SCAN_COLUMNS, IdMap, build_id_map, open_id_map, segment_bases
from .manifest import Manifest
from .removal import refuse_links, remove_tree
from .sealed import damaged_files, read_seal

INDEXES = "indexes"
ID_MAP = "ids.map"
FIRST_STAGE = "bm25"
FIRST_STAGE_MANIFEST = "glimmer-index.json"


def index_directory(memory: Path, version: int) -> Path:
    """`indexes/<version>/` of a memory."""
    return memory / INDEXES / str(version)


def first_stage_damage(memory: Path, version: int) -> list[tuple[Path, str]]:
    """(file, what is wrong with it) for the first-stage index of a version; reads all of it, empty if there is none.

    An index of another format or of other content is not damaged: it is rebuilt when it is next needed.
    """
    directory = index_directory(memory, version) / FIRST_STAGE
    if not directory.exists():
        return []
    path = directory / FIRST_STAGE_MANIFEST
    try:
        content = read_seal(path)
        if content is None:
            return []
        return [
            (directory / name, what) for name, what in damaged_files(directory, content["files"], afresh=True).items()
        ]
    except FileNotFoundError:
        return [(path, "is missing")]
    except DamageError as error:
        return [(path, error.what)]
    except OSError as error:
        return [(directory, f"cannot be read: {error.strerror}")]


def build(catalog: Catalog, manifest: Manifest, path: Path) -> None:
    """Builds the id map of `manifest` at `path`; raises DamageError, StorageError."""
    make_directories(path.parent)
    build_id_map(
        path,
        catalog.scan(manifest, SCAN_COLUMNS),
        rows=manifest.passages,
        bases=segment_bases({name: entry.rows for name, entry in manifest.segments.items()}),
        content_sha256=manifest.content_sha256,
    )


def open_or_build(catalog: Catalog, manifest: Manifest, *, rebuild: bool = False) -> IdMap:
    """The id map of `manifest`; one that could only be built in a temporary directory is deleted with the object.

    With `rebuild`, maps already there are not trusted. Raises DamageError if the catalog cannot be read.
    """
    home = index_directory(catalog.memory, manifest.version) / ID_MAP
    cached = _cache_directory() / manifest.content_sha256 / ID_MAP
    if not rebuild:
        for path in (home, cached):
            found = _usable(path, manifest)
            if found is not None:
                return found
    for path in (home, cached):
        with contextlib.suppress(StorageError):
            build(catalog, manifest, path)
            return IdMap(path, content_sha256=manifest.content_sha256)
    directory = temporary.new_directory("glimmer-")
    build(catalog, manifest, directory / ID_MAP)
    ids = IdMap(directory / ID_MAP, content_sha256=manifest.content_sha256)
    weakref.finalize(ids, temporary.remove, directory)
    return ids


def _usable(path: Path, manifest: Manifest) -> IdMap | None:
    try:
        found = open_id_map(path, content_sha256=manifest.content_sha256) if path.exists() else None
        return found if found is not None and found.rows == manifest.passages else None
    except (OSError, StorageError):
        return None


def _cache_directory() -> Path:
    if chosen := os.environ.get("GLIMMER_CACHE"):
        return Path(chosen) / INDEXES
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "glimmer" / INDEXES


@contextlib.contextmanager
def prepared(catalog: Catalog) -> Iterator[_Preparation]:
    """For a commit: pass `.build` as its `prepare`, call `.install` with the manifest it returned.

    Raises DamageError where one of the memory's directories is a link.
    """
    refuse_links(catalog.memory)
    preparation = _Preparation(catalog)
    try:
        yield preparation
    finally:
        with contextlib.suppress(StorageError):  # a vacuum finds what stays behind
            remove_tree(preparation.directory, within=catalog.memory)


class _Preparation:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.directory = catalog.memory / INDEXES / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"

    def build(self, manifest: Manifest) -> None:
        """Builds the map beside its place; what it raises stops the commit."""
        build(self._catalog, manifest, self.directory / ID_MAP)

    def install(self, manifest: Manifest) -> None:
        """Moves the map to its version. Failing here loses nothing: the first reader builds it."""
        home = index_directory(self._catalog.memory, manifest.version)
        with contextlib.suppress(OSError, StorageError, DamageError):
            built = open_id_map(self.directory / ID_MAP, content_sha256=manifest.content_sha256)
            if built is not None and _usable(home / ID_MAP, manifest) is None:
                make_directories(home)
                os.replace(self.directory / ID_MAP, home / ID_MAP)
