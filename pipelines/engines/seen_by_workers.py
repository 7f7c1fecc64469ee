"""What workers are told about memory and model so that they find the same ones, wherever they run."""

from __future__ import annotations

from ... import UsageError
from ...storage.stores import Store
from .engine import Engine


def memory_for_workers(store: Store, engine: Engine) -> str:
    """The memory's location, in full. UsageError where the engine's workers are other processes and cannot see it."""
    if store.of_this_process and not engine.is_this_process:
        raise UsageError(
            "a memory of this process is seen by no other, so only an engine of one process can work on it",
            where=str(store.location),
            remedy="keep the memory in a directory or a bucket, or leave out runner and workers",
        )
    path = store.local_path()
    return str(store.location if path is None else path.resolve())
