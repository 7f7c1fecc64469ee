"""Numbers about a memory for `glimmer inspect`: what is there and what it costs, from the catalog alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .codecs import spec_text
from .identity import IDENTITY
from .memory import TABLES, Memory

_BUCKETS = 16


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What `inspect_memory` found.

    Attributes:
        version, articles, passages, tokens: of the version that was opened.
        segments: how many segments hold live passages; `rows` is how many rows they hold, dead ones included.
        bytes_on_disk: memory.json, codec tables, live catalog files and live segments (all of each).
        bytes_per_token: bytes_on_disk over live tokens; 0 for an empty memory.
        codec: the codec's name and parameters; `code_bytes` what it takes per token before compression.
        encoder: the encoder's name; `fingerprint` its fingerprint.
        window: longest passage that fits, in tokens.
        histogram: (first length, last length, passages), bars of equal width over 1 … window.
    """

    version: int
    articles: int
    passages: int
    tokens: int
    segments: int
    rows: int
    bytes_on_disk: int
    bytes_per_token: float
    codec: str
    code_bytes: int
    encoder: str
    fingerprint: str
    window: int
    histogram: tuple[tuple[int, int, int], ...]

    def to_json(self) -> dict[str, Any]:
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return record | {"histogram": [list(bar) for bar in self.histogram]}


def inspect_memory(memory: Memory) -> Inspection:
    """Streams the catalog's token counts; memory use does not grow with the number of passages."""
    counts = np.zeros(memory.window + 1, np.int64)
    for batch in memory.passage_table(["n_tokens"]):
        counts += np.bincount(batch.column("n_tokens").to_numpy(), minlength=memory.window + 1)[: memory.window + 1]
    manifest = memory.manifest
    size = sum(entry.bytes for entry in manifest.segments.values()) + sum(file.bytes for file in manifest.files)
    size += sum(entry.size for name in (IDENTITY, TABLES) if (entry := memory.store.stat(name)) is not None)
    width = -(-memory.window // _BUCKETS)
    bars = []
    for first in range(1, memory.window + 1, width):
        last = min(first + width - 1, memory.window)
        bars.append((first, last, int(counts[first : last + 1].sum())))
    return Inspection(
        version=memory.version,
        articles=memory.articles,
        passages=memory.passages,
        tokens=memory.tokens,
        segments=len(manifest.segments),
        rows=sum(entry.rows for entry in manifest.segments.values()),
        bytes_on_disk=size,
        bytes_per_token=size / memory.tokens if memory.tokens else 0.0,
        codec=spec_text(memory.codec.spec()),
        code_bytes=memory.codec.code_bytes,
        encoder=memory.identity.encoder.name,
        fingerprint=memory.identity.encoder.fingerprint,
        window=memory.window,
        histogram=tuple(bars),
    )
