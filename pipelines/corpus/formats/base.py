"""What a source format is: a name, a look at a file's beginning, and a reader."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from ..article import Record
from ..fields import FieldNames
from ..record_layout import Layout
from ..sample import Sample
from ..source_file import SourceFile

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
