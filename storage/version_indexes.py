"""`indexes/<version>/`: what can always be rebuilt from one version. Here, where its id map is found, or else built.

The first-stage index is the reader's; here stands where it is, and how its damage is told.

The id map is built before the commit that needs it, from the very files the commit names, so a commit that would list
a passage twice is stopped. If it is missing or damaged it is built again; where the memory cannot be written, in the
user's cache directory, or as a last resort in a temporary one. Of a memory in a bucket it is read in the user's cache
directory alone: copied there from the bucket, or built there and put into the bucket for others.
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
from .files import TEMPORARY_PREFIX
from .idmap import SCAN_COLUMNS, IdMap, build_id_map, open_id_map, segment_bases
from .manifest import Manifest
from .stores import LocalStore, Store
from .stores.sealed import LARGEST_MANIFEST, damaged_files, parse_seal, read_seal

INDEXES = "indexes"
ID_MAP = "ids.map"
FIRST_STAGE = "bm25"
FIRST_STAGE_MANIFEST = "glimmer-index.json"


def index_key(version: int) -> str:
    """`indexes/<version>`, relative to a memory."""
    return f"{INDEXES}/{version}"


def first_stage_damage(store: Store, version: int) -> list[tuple[str, str]]:
    """(key, what is wrong with it) for the first-stage index of a version; reads all of it, empty if there is none.

    An index of another format or of other content is not damaged: it is rebuilt when it is next needed.
    """
    key = f"{index_key(version)}/{FIRST_STAGE}"
    directory = store.local_path(key)
    if store.remote:
        return _remote_damage(store, key)
    if directory is None or not store.exists(key):
        return []
    manifest, path = f"{key}/{FIRST_STAGE_MANIFEST}", directory / FIRST_STAGE_MANIFEST
    try:
        content = read_seal(path)
        if content is None:
            return []
        return [
            (f"{key}/{name}", what) for name, what in damaged_files(directory, content["files"], afresh=True).items()
        ]
    except FileNotFoundError:
        return [(manifest, "is missing")]
    except DamageError as error:
        return [(manifest, error.what)]
    except OSError as error:
        return [(key, f"cannot be read: {error.strerror}")]


def _remote_damage(store: Store, key: str) -> list[tuple[str, str]]:
    manifest = f"{key}/{FIRST_STAGE_MANIFEST}"
    try:
        content = parse_seal(store.read(manifest, most=LARGEST_MANIFEST), store.name(manifest))
    except FileNotFoundError:
        return []  # it is put last: what else is there was not finished
    except DamageError as error:
        return [(manifest, error.what)]
    found = []
    for name, expected in (content or {"files": {}})["files"].items():
        try:
            if store.sha256(f"{key}/{name}") != (expected["sha256"], expected["bytes"]):
                found.append((f"{key}/{name}", "its SHA-256 is not the recorded one"))
        except FileNotFoundError:
            found.append((f"{key}/{name}", "is missing"))
    return found


def build(catalog: Catalog, manifest: Manifest, store: Store, key: str) -> None:
    """Builds the id map of `manifest` at `key` of any store; raises DamageError, StorageError."""
    build_id_map(
        store,
        key,
        catalog.scan(manifest, SCAN_COLUMNS),
        rows=manifest.passages,
        bases=segment_bases({name: entry.rows for name, entry in manifest.segments.items()}),
        content_sha256=manifest.content_sha256,
    )


def open_or_build(catalog: Catalog, manifest: Manifest, *, rebuild: bool = False, publish: bool = True) -> IdMap:
    """The id map of `manifest`; one that could only be built in a temporary directory is deleted with the object.

    With `rebuild`, maps already there are not trusted; with `publish`, a bucket gets one that was built in the cache.
    Raises DamageError if the catalog cannot be read.
    """
    home = (catalog.store, f"{index_key(manifest.version)}/{ID_MAP}")
    cached = _cached(manifest)
    places = (cached,) if catalog.store.remote else (home, cached)
    if not rebuild:
        for store, key in places:
            found = _usable(store, key, manifest) or (
                _usable(store, key, manifest) if catalog.store.remote and _copied(home, cached) else None
            )
            if found is not None:
                return found
    for store, key in places:
        with contextlib.suppress(StorageError):
            build(catalog, manifest, store, key)
            ids = IdMap(store, key, content_sha256=manifest.content_sha256)
            if catalog.store.remote and publish:
                _copied(cached, home)
            return ids
    directory = temporary.new_directory("glimmer-")
    build(catalog, manifest, LocalStore(directory), ID_MAP)
    ids = IdMap(LocalStore(directory), ID_MAP, content_sha256=manifest.content_sha256)
    weakref.finalize(ids, temporary.remove, directory)
    return ids


def _copied(source: tuple[Store, str], target: tuple[Store, str]) -> bool:
    """Copies a derived file from one store to another, if it can be; whoever opens it sees whether it is whole."""
    with contextlib.suppress(OSError, StorageError, DamageError):
        target[0].put(target[1], source[0].read(source[1]))
        return True
    return False


def _cached(manifest: Manifest) -> tuple[Store, str]:
    return LocalStore(_cache_directory()), f"{manifest.content_sha256}/{ID_MAP}"


def _usable(store: Store, key: str, manifest: Manifest) -> IdMap | None:
    try:
        found = open_id_map(store, key, content_sha256=manifest.content_sha256) if store.exists(key) else None
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
    catalog.store.refuse_links()
    preparation = _Preparation(catalog)
    try:
        yield preparation
    finally:
        if not catalog.store.remote:
            with contextlib.suppress(StorageError):  # a vacuum finds what stays behind
                catalog.store.delete_tree(preparation.key)


class _Preparation:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.key = f"{INDEXES}/{TEMPORARY_PREFIX}{secrets.token_hex(8)}"

    def build(self, manifest: Manifest) -> None:
        """Builds the map beside its place, of a bucket's memory in the cache; what it raises stops the commit."""
        if self._catalog.store.remote:
            open_or_build(self._catalog, manifest, rebuild=True, publish=False)
        else:
            build(self._catalog, manifest, self._catalog.store, f"{self.key}/{ID_MAP}")

    def install(self, manifest: Manifest) -> None:
        """Puts the map into its version. Failing here loses nothing: the first reader builds it."""
        store, built = self._catalog.store, f"{self.key}/{ID_MAP}"
        home = f"{index_key(manifest.version)}/{ID_MAP}"
        if store.remote:
            _copied(_cached(manifest), (store, home))
            return
        with contextlib.suppress(OSError, StorageError, DamageError):
            if open_id_map(store, built, content_sha256=manifest.content_sha256) is not None and (
                _usable(store, home, manifest) is None
            ):
                store.move(built, home)
