"""Where a memory lies: the protocol `Store`, and one module for each kind of place.

`open_store` turns what a person names (a path, `file://…`, `memory://name`) into a store. A new kind is one new module
with a subclass of `Store` that calls `register_store`, or that an installed package names in the entry-point group
`glimmer.stores`.
"""

from .in_memory import InMemoryStore
from .local import LocalStore
from .protocol import Entry, Place, Store
from .registry import open_store, register_store

__all__ = ["Entry", "InMemoryStore", "LocalStore", "Place", "Store", "open_store", "register_store"]
