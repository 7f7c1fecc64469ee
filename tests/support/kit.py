"""Small real memories for tests of storage and of what looks after it: made-up text, random codes, the rest real.

Test modules get it as the fixture `kit`; scripts that tests start import this file. It needs neither model nor JAX.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from glimmer.storage.catalog_files import passage_rows
from glimmer.storage.codecs import Tables, code_bytes, parse_codec, table_shapes
from glimmer.storage.identity import EncoderIdentity, Identity, PassageSettings
from glimmer.storage.manifest import Manifest
from glimmer.storage.memory import Memory, commit
from glimmer.storage.passage import SHARD_ROWS, Passage, content_hash
from glimmer.storage.segment_writer import SealedSegment, SegmentWriter
from glimmer.storage.stores import Place

_P = TypeVar("_P", bound=Place)

WINDOW = 8
WIDTH = 12


@dataclass(frozen=True)
class Kit:
    """Functions that make storage's inputs; equal arguments give equal results."""

    window: int = WINDOW
    width: int = WIDTH
    code_bytes: int = WIDTH + 4
    codec: Mapping[str, Any] | None = None  # int8
    tables: Tables = field(default_factory=dict)

    def of_pq(self) -> Kit:
        """The same of codec `pq`: codes of 6 bytes, and made-up tables."""
        spec = parse_codec("pq:bytes=6", self.width, 300)
        draw = np.random.default_rng(7)
        tables = {name: draw.normal(size=each.shape).astype(each.dtype) for name, each in table_shapes(spec).items()}
        return replace(self, code_bytes=code_bytes(spec), codec=spec.to_json(), tables=tables)

    def passage(self, number: int) -> Passage:
        """Passage `number` of the world: three passages an article, 1 to 8 tokens."""
        title, text = f"Title {number // 3}", f"Text of passage {number}: naïve façade, 東京 — {'x' * (number % 40)}"
        tokens = np.random.default_rng(number).integers(0, 30_000, 1 + number % self.window).astype(np.int32)
        return Passage(
            passage_id=hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest(),
            article_id=str(number // 3),
            title=title,
            text=text,
            start_paragraph_id=number % 3,
            start_character=number % 7,
            end_paragraph_id=number % 3,
            end_character=number % 7 + len(text),
            content_hash=content_hash(title, text),
            tokens=tokens,
        )

    def codes(self, passages: Sequence[Passage]) -> npt.NDArray[np.uint8]:
        """uint8 [n, window, code_bytes]: codes that depend on the passage alone, zero beyond its length."""
        codes = np.zeros((len(passages), self.window, self.code_bytes), np.uint8)
        for row, passage in enumerate(passages):
            seed = int(passage.passage_id[:12], 16)
            length = len(passage.tokens)
            codes[row, :length] = np.random.default_rng(seed).integers(1, 256, (length, self.code_bytes))
        return codes

    def identity(self, **changes: object) -> Identity:
        values: dict[str, object] = {
            "encoder": EncoderIdentity(
                name="tiny",
                source="made up",
                fingerprint="ab" * 32,
                family="t5",
                d_model=self.width,
                memory_layers=2,
                precision="bfloat16",
            ),
            "passages": PassageSettings(words=100, template="{title}. {text}", window=self.window),
            "codec": self.codec or {"name": "int8", "width": self.width},
            "shapes": ((4, self.window // 2), (4, self.window)),
            "created": "2024-05-01T12:00:00Z",
        }
        return Identity(**values | changes)  # type: ignore[arg-type]

    def create(self, path: Place) -> Memory:
        """An empty memory."""
        return Memory.create(path, self.identity(), self.tables)

    def segment(self, memory: Place, segment: str, passages: Sequence[Passage]) -> SealedSegment:
        """Writes and seals a segment of `passages`; like a job, goes on from a seal that is there already."""
        writer = SegmentWriter(memory, segment)
        sealed = writer.sealed
        parts = [passages[start : start + SHARD_ROWS] for start in range(0, len(passages), SHARD_ROWS)]
        for shard, part in enumerate(parts if not sealed else ()):
            writer.write_text(shard, part)
        writer.create_arrays(len(passages), self.window, self.code_bytes)
        records = []
        for shard, part in enumerate(parts):
            lengths = np.array([len(passage.tokens) for passage in part], np.int32)
            if sealed:
                records.append(writer.record(shard, int(lengths.sum())))
            else:
                records.append(writer.write_shard(shard, self.codes(part), lengths))
        return writer.seal(records)

    def add(self, memory: Place, passages: Sequence[Passage], *, job: str, base: int) -> Manifest:
        """A whole job: a segment of `passages` and its commit."""
        sealed = self.segment(memory, f"seg-{job}", passages)
        rows = passage_rows(passages, sealed.segment, 0)
        return commit(memory, base=base, job=job, operation="encode", add=[rows], segments=[sealed])

    def memory(self, path: _P, *counts: int) -> _P:
        """A memory with a segment for each of `counts`, of so many passages; numbered on from 0."""
        self.create(path)
        first = 0
        for base, count in enumerate(counts):
            passages = [self.passage(number) for number in range(first, first + count)]
            self.add(path, passages, job=f"job-{base}", base=base)
            first += count
        return path
