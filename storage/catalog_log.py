"""A look at the files of a Delta log before Delta reads them by itself.

Delta prefers a checkpoint to entries, and checkpoints have no checksum; it waits for ever on a FIFO, and reads whatever
size an entry has. A memory's log has JSON entries in plain files of a bounded size, and nothing else that Delta knows.
"""

from __future__ import annotations

import os
from pathlib import Path

from .. import DamageError
from .manifest import MAX_ENTRY_BYTES


def check_log_files(log: Path, remedy: str) -> None:
    """Raises DamageError, ending in `remedy`, for a file of the log at `log` that Delta must not read; OSError."""
    with os.scandir(log) as entries:
        for entry in entries:
            place = log / entry.name
            if entry.name == "_last_checkpoint" or ".checkpoint." in entry.name or ".compacted." in entry.name:
                raise DamageError(f"{place}: a memory's log has no checkpoints; delete it, then {remedy}")
            if not entry.name.endswith(".json") or entry.name.startswith(("_", ".")):
                continue  # what a writer left half-way; nobody reads it
            if not entry.is_file():
                raise DamageError(f"{place}: not a plain file; {remedy}")
            if entry.stat().st_size > MAX_ENTRY_BYTES:
                raise DamageError(f"{place}: larger than any log entry; {remedy}")
