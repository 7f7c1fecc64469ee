"""A corpus cut into ranges, so that several workers can read it: each range is read by itself, start to end.

A large file whose format can be split (`SplitFormat`) comes apart in spans of about the wanted size, each a range; a
large file that cannot be split is a range; small files that follow each other share one. Ranges depend on the listing
and the size alone, so that the same command finds the same ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from .article import Record
from .fields import FieldNames
from .formats import SourceFormat, SplitFormat
from .record_layout import Layout
from .source_file import SourceFile, Span
from .tfds import TFDS, read_tfds

RANGE_BYTES: Final = 64_000_000
"""Bytes of a range, as they stand in the sources: about half a minute of work for a worker."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file, or a span of one, and how it is read; or a TensorFlow dataset (`file` is its name, `format` None).

    `size` is its bytes, compressed as they stand; at least 1.
    """

    file: SourceFile | str
    format: SourceFormat | None
    layout: Layout
    size: int

    @property
    def name(self) -> str:
        return self.file if isinstance(self.file, str) else self.file.name

    @property
    def format_name(self) -> str:
        return TFDS if self.format is None else self.format.name

    def __reduce__(self) -> tuple[Any, ...]:
        file = self.file if isinstance(self.file, str) else self.file.for_others()
        return Part, (file, self.format, self.layout, self.size)

    def read(
        self, names: FieldNames, advance: Callable[[float], None], skip: Callable[[str], None]
    ) -> Iterator[Record]:
        """Its records; `advance` is told the share read so far, `skip` the kind of each record that is left out."""
        if self.format is None or isinstance(self.file, str):
            return read_tfds(self.name, advance, names=names)
        return self.format.read(self.file, self.layout, advance=advance, skip=skip)


@dataclass(frozen=True, slots=True)
class SourceRange:
    """Parts that are read together, in this order; can be sent to another process.

    `names` are the fields that hold ids, titles and texts.
    """

    parts: tuple[Part, ...]
    names: FieldNames

    @property
    def size(self) -> int:
        """Bytes of the sources in it, compressed as they stand."""
        return sum(part.size for part in self.parts)

    def read(self, advance: Callable[[float], None], skip: Callable[[str], None]) -> Iterator[Record]:
        """Its records, in order; see `Part.read`."""
        total, before = self.size, 0
        for part in self.parts:

            def move(share: float, before: int = before, size: int = part.size) -> None:
                advance((before + share * size) / total)

            yield from part.read(self.names, move, skip)
            before += part.size

    @property
    def lines(self) -> int:
        """Lines of a span of a file, once it has been read; 0 for any other range, whose places need no mending."""
        span = self._span
        return 0 if span is None else span.lines

    @property
    def begins_file(self) -> bool:
        """Whether places in it count from the beginning of its files."""
        return self._span is None or not self._span.start

    @property
    def _span(self) -> Span | None:
        first = self.parts[0].file
        return None if isinstance(first, str) else first.span

    def describe(self) -> list[Any]:
        """What tells this range from others, JSON-able."""
        span = self._span
        bounds = [] if span is None else [span.start, span.end]
        return [[part.name, part.format_name, part.size, *bounds] for part in self.parts]


def cut_ranges(parts: Sequence[Part], names: FieldNames, size: int) -> list[SourceRange]:
    """`parts` as ranges of about `size` bytes, in their order."""
    ranges: list[SourceRange] = []
    small: list[Part] = []
    for part in parts:
        spans = _spans(part, size)
        if spans or sum(each.size for each in small) + part.size > size:
            if small:
                ranges.append(SourceRange(tuple(small), names))
            small = []
        if spans:
            ranges += [SourceRange((each,), names) for each in spans]
        else:
            small.append(part)
    if small:
        ranges.append(SourceRange(tuple(small), names))
    return ranges


def ranges_digest(ranges: Sequence[SourceRange]) -> str:
    """16 hex digits that tell one way to cut a corpus into ranges from another."""
    described = json.dumps([each.describe() for each in ranges])
    return hashlib.blake2b(described.encode(), digest_size=8).hexdigest()


def _spans(part: Part, size: int) -> list[Part]:
    """The spans of a file that is larger than `size`; none where it cannot be split."""
    if isinstance(part.file, str) or part.size <= size or not isinstance(part.format, SplitFormat):
        return []
    spans = part.format.split(part.file, part.layout, size)
    if len(spans) < 2:
        return []
    share = part.size // len(spans)
    return [replace(part, file=replace(part.file, span=span), size=max(1, share)) for span in spans]
