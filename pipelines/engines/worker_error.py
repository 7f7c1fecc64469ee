"""The error about workers: they cannot be reached, have died, make no progress, or do not see what they need."""

from __future__ import annotations

from ... import GlimmerError


class WorkerError(GlimmerError):
    """Workers of an engine cannot do their work; what was finished is kept, and the same command resumes."""
