"""The source formats, a file each, and the registry of them."""

from __future__ import annotations

from .base import Advance, Skip, SourceFormat, SplitFormat
from .format_registry import register_format, source_formats

__all__ = ["Advance", "Skip", "SourceFormat", "SplitFormat", "register_format", "source_formats"]
