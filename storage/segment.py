"""Segments, the payload of a memory: `SegmentWriter` writes one, `SegmentReader` reads one; `layout` has the form."""

from __future__ import annotations

from .layout import SegmentShape, ShardRecord
from .reader import RowDamageError, SegmentReader
from .writer import SealedSegment, SegmentWriter

__all__ = ["RowDamageError", "SealedSegment", "SegmentReader", "SegmentShape", "SegmentWriter", "ShardRecord"]
