"""Glimmer precomputes the memory of a retrieval-augmented language model and answers from it.

The package has four rooms: `pipelines` (the jobs people launch), `reader` (query time), `encoders` (token ids to
representations) and `storage` (memory on disk). Imports point one way: pipelines -> reader -> encoders, storage. What
every room needs, the version and the tree of errors, stands here.
"""

from __future__ import annotations

__version__ = "0.1.0"

from .errors import (
    ConflictError,
    DamageError,
    GlimmerError,
    InputError,
    MismatchError,
    ModelError,
    PassageNotFoundError,
    StorageError,
    UsageError,
)

__all__ = [
    "ConflictError",
    "DamageError",
    "GlimmerError",
    "InputError",
    "MismatchError",
    "ModelError",
    "PassageNotFoundError",
    "StorageError",
    "UsageError",
    "__version__",
]
