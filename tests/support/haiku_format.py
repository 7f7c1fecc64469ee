"""A source format in one file: poems apart by blank lines, the first line of each its title. For tests."""

from __future__ import annotations

from collections.abc import Iterator

from glimmer.pipelines.corpus.article import Article, Record
from glimmer.pipelines.corpus.fields import FieldNames
from glimmer.pipelines.corpus.formats import Advance, Skip, register_format
from glimmer.pipelines.corpus.lines import read_lines
from glimmer.pipelines.corpus.record_layout import Layout
from glimmer.pipelines.corpus.sample import Sample
from glimmer.pipelines.corpus.source_file import SourceFile

FIRST_LINE = b"#haiku"


class Haiku:
    """Files whose first line is `#haiku`."""

    name = "haiku"

    def sniff(self, sample: Sample, names: FieldNames, *, forced: bool = False) -> Layout | None:
        if sample.lines[:1] == [FIRST_LINE] or forced:
            return Layout(names=names, used={"title": "the first line", "text": "the lines after it"})
        return None

    def read(self, file: SourceFile, layout: Layout, *, advance: Advance, skip: Skip) -> Iterator[Record]:
        poem: list[str] = []
        number = 0
        for number, line in read_lines(file, advance):
            text = line.decode()
            if text.startswith("#") and poem:
                yield Article(str(number), poem[0], poem[1:], f"{file.name}:{number}")
                poem = []
            elif not text.startswith("#"):
                poem.append(text)
        if poem:
            yield Article(str(number + 1), poem[0], poem[1:], f"{file.name}:{number}")


register_format(Haiku())
