"""First-stage indexes of memories in buckets: copied from the bucket to the user's cache, and put there for others.

tantivy opens local directories alone, so an index is used where it lies in the cache. The copy in the bucket, under
`indexes/<version>/`, saves other machines the building. Its manifest is put last and has the digests of all files: a
copy that is not finished is not used, and one that is not whole is found out when it is opened.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from ... import GlimmerError
from ...storage.stores import LocalStore, Store
from ...storage.stores.local_directories import new_beside, put_in_place
from ...storage.stores.sealed import LARGEST_MANIFEST, parse_seal, read_seal
from ...storage.version_indexes import FIRST_STAGE_MANIFEST as MANIFEST

_log = logging.getLogger(__name__)


def fetch_index(store: Store, key: str, directory: Path, of: Mapping[str, str]) -> None:
    """Copies the index at `key`, if it is one of `of`, to `directory` if that has none; what fails is only logged."""
    with contextlib.suppress(FileNotFoundError), _logged(store.name(key)):
        if LocalStore(directory).is_file(MANIFEST):
            return
        raw = store.read(f"{key}/{MANIFEST}", most=LARGEST_MANIFEST)
        content = parse_seal(raw, store.name(f"{key}/{MANIFEST}"))
        if content is None or content.get("of") != of:
            return
        with new_beside(directory) as made:
            into = LocalStore(made)
            for name, file in content["files"].items():
                into.put(name, store.read(f"{key}/{name}", size=file["bytes"]))
            into.put(MANIFEST, raw)
            put_in_place(made, directory)


def publish_index(store: Store, key: str, directory: Path) -> None:
    """Puts the index in `directory` at `key` for other machines; what fails is only logged, they build their own."""
    with _logged(store.name(key)):
        content = read_seal(directory / MANIFEST)
        there = LocalStore(directory)
        for name in (content or {"files": {}})["files"]:
            store.put(f"{key}/{name}", there.read(name))
        store.put(f"{key}/{MANIFEST}", there.read(MANIFEST))


@contextlib.contextmanager
def _logged(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (GlimmerError, OSError) as error:
        _log.warning("%s: the index cannot be copied: %s", name, error)
