"""How often a process of ours looks for garbage cycles."""

from __future__ import annotations

import gc
from typing import Final

_ALLOCATIONS: Final = 20_000
"""Containers made between two collections of the youngest generation; Python's default is 700."""


def collect_seldom() -> None:
    """Makes garbage collections rare in this process: for the first thing a process does.

    Beam, JAX and Flax make about a million objects while they are imported, none of them garbage, which the collector
    goes through dozens of times: a fifth of the time of those imports.
    """
    gc.set_threshold(_ALLOCATIONS)
