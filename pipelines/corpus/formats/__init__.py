"""The source formats: a file each, and one table of them, in the order in which a file is tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .base import Advance, Skip, SourceFormat
from .cirrus import Cirrus
from .jsonlines import JsonLines
from .kilt_pages import Kilt
from .msmarco import Documents, Passages
from .parquet_arrow import Arrow, Parquet
from .tsv import Dpr, Tsv
from .wikiextractor import WikiExtractor
from .wikipedia import Wikipedia

__all__ = ["FORMATS", "Advance", "Skip", "SourceFormat"]

_FORMATS: Final[tuple[SourceFormat, ...]] = (
    Kilt(),
    Cirrus(),
    JsonLines(),
    Parquet(),
    Arrow(),
    WikiExtractor(),
    Dpr(),
    Tsv(),
    Documents(),
    Passages(),
    Wikipedia(),
)
FORMATS: Final[Mapping[str, SourceFormat]] = {format.name: format for format in _FORMATS}
