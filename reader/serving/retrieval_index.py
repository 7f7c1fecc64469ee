"""The first-stage index of a memory: opened where it stands, built where it does not, never stale, never damaged.

An index belongs to one version of one memory and says so: its manifest has the digest of the memory's identity and of
the version's content, so an index of anything else is rebuilt, not used. It lies beside the version's other indexes, or
in the user's cache directory where the memory cannot be written, or as a last resort in a temporary directory. One of a
memory in a bucket lies in the cache, and a copy in the bucket serves other machines (`published_index`). The
language of its stemmer is chosen once: indexes of later versions take it over.
"""

from __future__ import annotations

import itertools
import logging
import re
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from ... import DamageError, GlimmerError, MismatchError, StorageError, UsageError
from ...encoders.compilation import cache_directory
from ...progress import Progress, Quiet
from ...storage import temporary
from ...storage.memory import Memory
from ...storage.stores import LocalStore, Place, Store, open_store
from ...storage.stores.sealed import read_seal
from ...storage.version_indexes import FIRST_STAGE, INDEXES, first_stage_damage, index_key
from .analysis import DEFAULT_LANGUAGE, LANGUAGES, check_language
from .prefetch import prefetched
from .published_index import fetch_index, publish_index
from .retrieval import MANIFEST, Bm25Index, build_index, passages_digest, share_index
from .texts_by_id import texts_by_id

DIRECTORY: Final = FIRST_STAGE
_READ_AT_ONCE = 4096
_log = logging.getLogger(__name__)
_ATTEMPTS = 3  # to build it and open it, where other processes put theirs in its place
_LANGUAGE = re.compile(rb'"language": "([a-z]+)"')


def index_manifest(memory: Memory) -> dict[str, str]:
    """What an index of `memory`, at the version it is opened at, is an index of."""
    return {"memory": memory.manifest.identity_sha256, "content": memory.manifest.content_sha256}


def check_passages(memory: Memory) -> None:
    """UsageError unless the version that `memory` is pinned to has passages to find."""
    if not memory.passages:
        raise UsageError(
            f"{memory.location}: version {memory.version} holds no passages; encode a corpus into it, or choose "
            "another version"
        )


def open_index(
    memory: Memory, *, progress: Progress | None = None, rebuild: bool = False, language: str | None = None
) -> Bm25Index:
    """The BM25 index of the version that `memory` is pinned to, built first if need be.

    An index that is there is compared with its recorded digests; a damaged one is built again, and `progress` told.

    Args:
        memory: an open memory.
        progress: progress callback; building is a stage named `index`.
        rebuild: build it whatever is there.
        language: of the stemmer, one of `analysis.LANGUAGES`; an index of another is built anew. None takes the index
            as it is, and for a new one the language of the nearest version before that has an index, or English.

    Raises UsageError for a version without passages or a language that there is none, DamageError if the memory's texts
    cannot be read, StorageError if an index can be written nowhere.
    """
    check_passages(memory)
    if language is not None:
        check_language(language)
    progress = progress or Quiet()
    home = _home(memory, memory.version)
    places = _places(memory)
    manifest = index_manifest(memory)
    if not rebuild:
        existing, damages = _existing(memory, language)
        if existing is not None:
            return existing
        for damage in damages:
            progress.say(f"{damage.problem}; it is built again")
    chosen = language or _language_before(memory)
    if home is not None and _has_link(memory):  # what is replaced there would be deleted outside the memory
        places = places[1:]
    refused: StorageError | None = None
    for place in places:
        for _ in range(_ATTEMPTS):
            try:
                if rebuild or not _shared(memory, place, chosen):
                    _build(memory, place, chosen, progress)
            except StorageError as error:
                refused = refused or error
                break
            try:
                found = Bm25Index.open(place, manifest, language=chosen)
            except (MismatchError, DamageError, StorageError):
                continue  # another process put its own there
            if memory.store.remote:
                publish_index(memory.store, f"{memory.index_key}/{DIRECTORY}", place)
            if home not in (None, place):
                progress.say(f"the index cannot be put into {memory.location}, it is kept in {place}")
            return found
    return _temporary(memory, chosen, progress, refused)


def find_index(memory: Memory, *, language: str | None = None) -> Bm25Index | None:
    """The index that `open_index` would open without building one, None where it would build; its digests agree."""
    check_passages(memory)
    if language is not None:
        check_language(language)
    return _existing(memory, language)[0]


def _existing(memory: Memory, language: str | None) -> tuple[Bm25Index | None, list[DamageError]]:
    """The newest sound index, and what is wrong with damaged ones that were looked at before it."""
    damages: list[DamageError] = []
    manifest = index_manifest(memory)
    _fetch(memory)
    for place in sorted(_places(memory), key=_made, reverse=True):
        try:
            found = Bm25Index.open(place, manifest, language=language)
        except DamageError as error:
            damages.append(error)
        except (MismatchError, StorageError):
            continue  # absent, stale or unreadable: all the same, it can be made
        else:
            _log.info("index opened: %s, %d passages, %s", place, found.count, found.language)
            return found, damages
    return None, damages


def index_language(memory: Memory) -> str:
    """The language of the index that `open_index` gives when it is asked for none; reads manifests alone."""
    _fetch(memory)
    for place in sorted(_places(memory), key=_made, reverse=True):
        try:
            content = read_seal(place / MANIFEST)
        except (OSError, DamageError):
            continue
        if content is not None and content.get("of") == index_manifest(memory) and content.get("language") in LANGUAGES:
            return str(content["language"])
    return _language_before(memory)


def index_new_version(
    place: Place, version: int, *, before: Iterable[int], wanted: bool | None, progress: Progress | None = None
) -> None:
    """Gives a version that was just committed its first-stage index, if it is wanted.

    Args:
        place: the memory.
        version: the new version.
        before: the versions it came from.
        wanted: whether it shall have one; None where one of those `before` has.
        progress: progress callback.

    The version stands whether this succeeds or not, and the first reader builds what is absent, so what goes wrong is
    told and not raised.
    """
    progress = progress or Quiet()
    store = open_store(place)
    if not (has_index(store, before) if wanted is None else wanted):
        return
    try:
        memory = Memory.open(store, version)
        if memory.passages:
            open_index(memory, progress=progress)
    except GlimmerError as error:
        progress.say(f"version {version} is committed, but its first-stage index cannot be built yet: {error}")


def rebuilt_index(store: Store, version: int | None, progress: Progress) -> str | None:
    """Builds a version's index in the memory again; its key, None if that cannot be. Raises StorageError."""
    try:
        memory = Memory.open(store, version)
        open_index(memory, progress=progress, rebuild=True)
    except DamageError:  # texts that are lost
        return None
    return None if first_stage_damage(store, memory.version) else f"{memory.index_key}/{DIRECTORY}"


def has_index(store: Store, versions: Iterable[int]) -> bool:
    """Whether one of `versions` has a first-stage index in the memory."""
    return any(store.exists(f"{index_key(version)}/{DIRECTORY}") for version in versions)


def _home(memory: Memory, version: int) -> Path | None:
    """The directory for the index of `version` in the memory; None where that has no directories."""
    return memory.store.local_path(f"{index_key(version)}/{DIRECTORY}")


def _places(memory: Memory) -> list[Path]:
    """Where an index of the version may stand: in the memory if that has directories, in the user's cache."""
    home, cached = _home(memory, memory.version), _cache() / _key(memory) / DIRECTORY
    return [cached] if home is None else [home, cached]


def _fetch(memory: Memory) -> None:
    """Copies the index of a memory in a bucket to the user's cache, if it is not there yet."""
    if memory.store.remote:
        [place] = _places(memory)
        fetch_index(memory.store, f"{memory.index_key}/{DIRECTORY}", place, index_manifest(memory))


def _cache() -> Path:
    return cache_directory() / INDEXES


def _key(memory: Memory) -> str:
    # Passages are equal whenever the content is, but the identity is part of what the manifest promises.
    manifest = memory.manifest
    return f"{manifest.identity_sha256[:16]}-{manifest.content_sha256[:32]}"


def _made(place: Path) -> float:
    """When the index at `place` was made: of two, the later has the language that was asked for last."""
    try:
        return (place / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0


def _has_link(memory: Memory) -> bool:
    keys = (INDEXES, memory.index_key, f"{memory.index_key}/{DIRECTORY}")
    return any(entry.link for key in keys for entry in itertools.islice(memory.store.walk(key), 1))


def _language_before(memory: Memory) -> str:
    """The language of this version's index, whatever its state, of the nearest version before, or of a cached one."""
    of_memory = f"{memory.manifest.identity_sha256[:16]}-"
    cached = [_cache() / name / DIRECTORY for name in LocalStore(_cache()).names() if name.startswith(of_memory)]
    homes = [_home(memory, version) for version in (memory.version, *_indexed(memory, below=memory.version))]
    for place in [*filter(None, homes), *sorted(cached, key=_made, reverse=True)]:
        try:
            found = _LANGUAGE.search(LocalStore(place).read(MANIFEST, most=1 << 20))
        except (OSError, DamageError):
            continue
        if found is not None and found.group(1).decode() in LANGUAGES:
            return found.group(1).decode()
    return DEFAULT_LANGUAGE


def _indexed(memory: Memory, *, below: int | None = None) -> list[int]:
    """Versions that have a directory of indexes, the newest first."""
    try:
        names = [name for name in memory.store.names(INDEXES) if re.fullmatch("[0-9]{1,18}", name)]
    except StorageError:
        return []
    return sorted((int(name) for name in names if below is None or int(name) < below), reverse=True)


def _shared(memory: Memory, place: Path, language: str) -> bool:
    """Puts the files of another version's index at `place` if that holds the same passages; whether there was one.

    A rollback shows what an earlier version showed, a compaction moves rows: passages and their positions are equal,
    and so is the index. Raises StorageError if `place` cannot be written.
    """
    digest = ""
    for version in _indexed(memory):
        other = _home(memory, version)
        if other is None:
            continue
        try:
            content = read_seal(other / MANIFEST)
            if version == memory.version or content is None or content.get("passages") != memory.passages:
                continue
            if content.get("language") != language or content["of"]["memory"] != memory.manifest.identity_sha256:
                continue
            digest = digest or passages_digest(_ids(memory))
            if content.get("passages_digest") != digest:
                continue
            found = Bm25Index.open(other, content["of"], language=language)
        except (OSError, GlimmerError, KeyError, TypeError):
            continue  # no index, or one that is no use
        share_index(found, place, index_manifest(memory))
        return True
    return False


def _ids(memory: Memory) -> Iterator[str]:
    for start in range(0, memory.passages, _READ_AT_ONCE):
        yield from memory.ids(np.arange(start, min(start + _READ_AT_ONCE, memory.passages)))


def _temporary(memory: Memory, language: str, progress: Progress, refused: StorageError | None) -> Bm25Index:
    """An index that lives as long as the object: nothing but the temporary directory can be written."""
    try:
        home = temporary.new_directory("glimmer-index-")
    except StorageError:
        raise refused or StorageError("no directory for the index can be written") from None
    try:
        place = home / DIRECTORY
        _build(memory, place, language, progress)
        index = Bm25Index.open(place, index_manifest(memory))
    except BaseException:
        temporary.remove(home)
        raise
    weakref.finalize(index, temporary.remove, home)
    return index


def _build(memory: Memory, place: Path, language: str, progress: Progress) -> None:
    # In the order of ids, which is what positions count. In the payload's order two memories of equal content, one
    # refreshed and one rebuilt, could rank passages of nearly equal scores differently.
    with texts_by_id(memory, place, progress) as texts, prefetched(texts, ahead=2) as batches:
        progress.stage("index", total=memory.passages, unit="passages")
        passages = (passage for batch in batches for passage in batch)
        build_index(place, passages, index_manifest(memory), progress.at, language=language)
    progress.done()
    _log.info("index built: %s, %d passages, %s", place, memory.passages, language)
