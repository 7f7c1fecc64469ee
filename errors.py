"""The tree of errors that Glimmer raises on purpose."""

from __future__ import annotations


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
