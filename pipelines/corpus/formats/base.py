"""What a source format is: a name, a look at a file's beginning, and a reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from ..article import Record
from ..fields import FieldNames
from ..record_layout import Layout
from ..sample import Sample
from ..source_file import SourceFile, Span

Advance = Callable[[float], None]
"""Told, now and then, the share of the file read so far, 0 to 1."""

Skip = Callable[[str], None]
"""Told of each record that is left out because it is no article: what kind of record it is."""


class SourceFormat(Protocol):
    """A format. To add one, write it in a file of its own here that ends with `register_format`."""

    name: str

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        """How to read the file that `sample` is the beginning of; None for a file of another format.

        `forced`: the user says that it is of this format; None then only where it cannot be read as such at all.
        """

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        """The file's articles and rejections, in its order. Raises InputError for a file that cannot be read."""


@runtime_checkable
class SplitFormat(SourceFormat, Protocol):
    """A format whose files can be read in parts, at once by several workers. A format need not be one."""

    def split(self, file: SourceFile, layout: Layout, size: int) -> Sequence[Span]:
        """Spans of about `size` bytes, in order, that together are the file; none for a file that is read whole.

        `read` is then given the file with one of them. Read one after another they give the records that the whole file
        gives; places (`file:line`) may count from the span's first line.
        """
