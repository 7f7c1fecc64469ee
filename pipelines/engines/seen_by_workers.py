"""What workers are told about memory and model so that they find the same ones, wherever they run."""

from __future__ import annotations

from pathlib import Path

from ... import UsageError
from ...encoders.builtin_models import BUILT_IN
from ...encoders.model_config import read_model_config
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


def check_model(model: str) -> None:
    """Whether this process sees the model, by its configuration alone; raises what keeps it from that."""
    if model not in BUILT_IN:
        read_model_config(Path(model))
