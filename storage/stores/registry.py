"""Which store a location belongs to, by its scheme: `file://` or none is a local path; others are registered here."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

from ... import UsageError
from .in_memory import InMemoryStore
from .local import LocalStore
from .protocol import Place, Store

_GROUP: Final = "glimmer.stores"
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def _s3(location: str) -> Store:
    from .object_store import S3Store

    return S3Store(location)


def _gcs(location: str) -> Store:
    from .object_store import GcsStore

    return GcsStore(location)


_makers: dict[str, Callable[[str], Store]] = {"memory": InMemoryStore, "s3": _s3, "gs": _gcs}


def register_store(scheme: str, make: Callable[[str], Store]) -> None:
    """Makes `open_store` call `make`, with the whole location, for locations that begin with `scheme`://.

    Installed packages need not call it: an entry point of the group `glimmer.stores`, named as the scheme, is found.
    """
    if _SCHEME.fullmatch(f"{scheme}://") is None or scheme.lower() == "file":
        raise UsageError(f"{scheme!r} cannot be the scheme of a store; use letters and digits, and not `file`")
    _makers[scheme.lower()] = make


def open_store(place: Place) -> Store:
    """The store of a memory's location; a store is returned as it is. Nothing needs to exist there.

    Raises UsageError for an empty location, and for a scheme that no store has.
    """
    if isinstance(place, Store):
        return place
    text = os.fspath(place)
    scheme = _SCHEME.match(text)
    if scheme is not None and (make := _maker(scheme.group(1).lower())) is not None:
        return make(text)
    return LocalStore(text)


def _maker(scheme: str) -> Callable[[str], Store] | None:
    return _makers.get(scheme) or _installed().get(scheme)


@functools.lru_cache(maxsize=1)
def _installed() -> dict[str, Callable[[str], Store]]:
    """The stores that installed packages bring; one is imported when it is first used."""

    def maker(point: object) -> Callable[[str], Store]:
        return lambda location: point.load()(location)  # type: ignore[attr-defined]

    return {point.name.lower(): maker(point) for point in entry_points(group=_GROUP)}
