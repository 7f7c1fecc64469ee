"""Defaults that a job's function and its command share, where the command must not import the job to show them."""

from __future__ import annotations

from typing import Final

DEFAULT_WINDOW: Final = 256
"""Most tokens of a passage, special ones included, of a converted model."""

DEFAULT_DEAD_SHARE: Final = 0.3
"""A compaction merges segments with a larger share of dead rows."""

DEFAULT_VERSIONS: Final = 10
"""Versions that a vacuum keeps however old they are."""
