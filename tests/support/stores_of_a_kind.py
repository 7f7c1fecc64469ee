"""Empty stores of each kind, for tests that hold whatever the place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glimmer.storage.stores import InMemoryStore, Store, open_store


def stores_of_a_kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Yields a function that makes an empty store of the kind `request.param`: local, in memory or s3."""
    made: list[Store] = []
    new_place = request.getfixturevalue("new_bucket_place") if request.param == "s3" else None

    def make() -> Store:
        name = f"memory-{len(made)}"
        if new_place is not None:
            place = new_place()
        else:
            place = tmp_path / name if request.param == "local" else f"memory://{request.node.name}/{name}"
        made.append(open_store(place))
        return made[-1]

    yield make
    for store in made:
        if isinstance(store, InMemoryStore):
            store.forget()
