"""Glimmer precomputes the memory of a retrieval-augmented language model and answers from it.

The package has four rooms: `pipelines` (the jobs people launch), `reader` (query time), `encoders` (token ids to
representations) and `storage` (memory on disk). Imports point one way: pipelines -> reader -> encoders, storage. What
every room needs, the version and the tree of errors, stands here.
"""

from __future__ import annotations

__version__ = "0.1.0"


class GlimmerError(Exception):
    """Base of every error Glimmer raises on purpose. The message says what is wrong, where, and what to do."""


class InputError(GlimmerError):
    """A source, query or gold file is malformed; the caller fixes the file (the message has file and line)."""


class UsageError(GlimmerError):
    """The request itself cannot be met: settings that contradict each other, a path that does not exist."""


class ModelError(GlimmerError):
    """A model directory or checkpoint is incomplete, malformed or of an unsupported kind."""


class MismatchError(GlimmerError):
    """Two sound things do not belong together, such as a memory and another encoder."""


class ConflictError(GlimmerError):
    """Another job changed the memory first, or is running now; the caller may try again."""


class DamageError(GlimmerError):
    """Stored bytes are not what was written; the caller runs `glimmer verify` and `glimmer repair`."""


class StorageError(GlimmerError):
    """The file system refused: disk full, read-only, permission; the caller makes room or chooses another place."""
