"""A corpus: its sources listed, each file's format told, then read as one stream of articles.

Nothing but a listing is made until `look`, `read` or `identity`. A stream is copied once, when the corpus is made, and
its copy lives as long as the corpus.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ... import InputError, UsageError
from ...wording import counted
from .article import Article, Record
from .content_identity import content_identities
from .detect import recognise
from .fields import FieldNames
from .formats import source_formats
from .idset import IdSet, id_digest
from .listing import Listing, Skipped, list_files
from .ranges import Part, SourceRange, cut_ranges
from .record_layout import Layout
from .rejects import Rejection, snippet
from .sample import EmptyFileError
from .tfds import PREFIX, TFDS, is_dataset_directory, tfds_bytes, tfds_identity

Advance = Callable[[float], None]


def format_names() -> tuple[str, ...]:
    """What `format` may be, in the order in which a file is tried."""
    return (*source_formats(), TFDS)


@dataclass
class Corpus:
    """Sources, and how they are to be read.

    Args:
        sources: local paths, globs, directories, fsspec URLs, `-`, or `tfds:` names.
        format: one of `format_names()`, or None to tell it from each file's content.
        fields: role (`id`, `title`, `text`) -> the field that holds it; None takes the known names.
        mixed: files of one source may have different formats.
        may_be_empty: files with nothing in them are skipped wherever they are, and there may be no source at all.

    Attributes:
        skipped: files that are not read, and why; complete after `look`.
        left_out: records that are no articles, by kind; complete after `read`.
    """

    sources: Sequence[str | os.PathLike[str]]
    format: str | None = None
    fields: Mapping[str, str] | None = None
    mixed: bool = False
    may_be_empty: bool = False
    skipped: list[Skipped] = field(default_factory=list, init=False)
    left_out: Counter[str] = field(default_factory=Counter, init=False)
    _parts: list[Part] | None = field(default=None, init=False, repr=False)
    _identity: list[dict[str, Any]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in format_names():
            raise UsageError(f"unknown format '{self.format}'; known: {', '.join(format_names())}")
        self._names = FieldNames.of(self.fields)
        given = [os.fspath(source) for source in self.sources]
        if not given and not self.may_be_empty:
            raise UsageError("no source given")
        if given.count("-") > 1:
            raise UsageError("standard input (-) is named twice; name it once")
        self._listings: list[tuple[str, Listing | None]] = [
            (source, None if self._is_tfds(source) else list_files(source)) for source in given
        ]

    @property
    def bytes(self) -> int:
        """Bytes of all files, compressed as they stand; datasets of TFDS left out."""
        return sum(file.size for _, listing in self._listings if listing is not None for file in listing.files)

    def identity(self, advance: Advance | None = None) -> list[dict[str, Any]]:
        """For each source, the content identity of its files (`content_identity`); JSON-able.

        Reads every local file once, when it is asked first. `advance` is told the share of their bytes read (0 to 1),
        from several threads. Raises as `content_identities` does.
        """
        if self._identity is None:
            files = [file for _, listing in self._listings if listing is not None for file in listing.files]
            found = iter(content_identities(files, advance))
            self._identity = [
                tfds_identity(source)
                if listing is None
                else {"kind": "files", "files": [next(found) for _ in listing.files]}
                for source, listing in self._listings
            ]
        return self._identity

    def check_unchanged(self) -> None:
        """Raises InputError if a local file was written to since it was listed: what was read may be a mixture."""
        for _, listing in self._listings:
            for file in () if listing is None else listing.files:
                if file.changed():
                    raise InputError(f"{file.name}: changed while it was being read; run the same command again")

    def look(self) -> list[Part]:
        """Tells the format of every file; later calls return what the first found.

        Raises InputError for a file that is empty, binary or of no known format, and for a source whose files differ in
        format unless it may be `mixed`.
        """
        if self._parts is None:
            self.skipped.clear()
            self._parts = [part for source, listing in self._listings for part in self._look(source, listing)]
        return self._parts

    def read(self, advance: Advance | None = None, *, unique: bool = True) -> Iterator[Record]:
        """Every article in the order of sources, files and positions, and rejections in their places.

        Ids are unique over all sources, and a later article of the same id is rejected, unless `unique` is false.
        `advance` is told the share of all bytes read so far (0 to 1).
        """
        parts = self.look()
        self.left_out.clear()
        records = SourceRange(tuple(parts), self._names).read(advance or (lambda share: None), self._leave_out)
        return _unique(records) if unique else records

    def ranges(self, size: int) -> list[SourceRange]:
        """The corpus cut into ranges of about `size` bytes, which give its records when read one after another.

        Small files come together, large ones of formats that can be split come apart; see `cut_ranges`.
        """
        return cut_ranges(self.look(), self._names, size)

    def describe(self) -> list[str]:
        """Lines for the user: the formats met, with the fields used, and the files that are skipped."""
        groups: dict[tuple[str, str], list[Part]] = {}
        for part in self.look():
            groups.setdefault((part.format_name, part.layout.describe()), []).append(part)
        lines = []
        for (format_name, fields), parts in groups.items():
            files = parts[0].name if len(parts) == 1 else f"{counted(len(parts), 'file')} ({parts[0].name} …)"
            lines.append(f"{format_name}: {files}" + (f": {fields}" if fields else ""))
        reasons: dict[str, list[str]] = {}
        for skipped in self.skipped:
            reasons.setdefault(skipped.reason, []).append(skipped.name)
        for reason, names in reasons.items():
            files = names[0] if len(names) == 1 else f"{counted(len(names), 'file')} ({names[0]} …)"
            lines.append(f"skipped: {files}: {reason}")
        return lines

    def notes(self) -> list[str]:
        """Lines for the user about records that were left out; after `read`."""
        return [f"left out: {count:,} {kind}" for kind, count in sorted(self.left_out.items())]

    def to_json(self) -> dict[str, Any]:
        """The formats met, files by format, and skipped files; JSON-able."""
        return {
            "files": [
                {"name": part.name, "format": part.format_name, "fields": dict(part.layout.used)}
                for part in self.look()
            ],
            "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in self.skipped],
            "left_out": dict(self.left_out),
        }

    def _is_tfds(self, source: str) -> bool:
        return source.startswith(PREFIX) or self.format == TFDS or is_dataset_directory(source)

    def _look(self, source: str, listing: Listing | None) -> Iterable[Part]:
        if listing is None:
            layout = Layout(names=self._names)
            return [Part(source, None, layout, max(1, tfds_bytes(source)))]
        self.skipped += listing.skipped
        parts = []
        empty: EmptyFileError | None = None
        for file in listing.files:
            try:
                format, layout = recognise(file, self._names, self.format)
            except EmptyFileError as error:
                if not (listing.several or self.may_be_empty):
                    raise
                empty = error
                self.skipped.append(Skipped(file.name, "empty"))
                continue
            parts.append(Part(file, format, layout, max(1, file.size)))
        if not parts and not self.may_be_empty:
            raise InputError(f"{source}: no articles to read there: every file is empty; check the path") from empty
        if not self.mixed and self.format is None:
            _check_uniform(source, parts)
        return parts

    def _leave_out(self, kind: str) -> None:
        self.left_out[kind] += 1


def _check_uniform(source: str, parts: Sequence[Part]) -> None:
    """InputError where files of one source have different formats, or their ids or texts under different names."""
    for part in parts[1:]:
        first = parts[0]
        if _kind(part) != _kind(first):
            raise InputError(
                f"{source}: files of different formats: {first.name} is {_shown(first)}, "
                f"{part.name} is {_shown(part)}; name the files you want, or accept the mixture with --mixed"
            )


def _kind(part: Part) -> tuple[str, str | None, str | None]:
    return part.format_name, part.layout.used.get("id"), part.layout.used.get("text")


def _shown(part: Part) -> str:
    used = ", ".join(part.layout.used[role] for role in ("id", "text") if role in part.layout.used)
    return f"{part.format_name} ({used})" if used else part.format_name


def _unique(records: Iterator[Record]) -> Iterator[Record]:
    seen = IdSet()
    for record in records:
        known = isinstance(record, Article) and not seen.add(id_digest(record.article_id))
        yield duplicate(record) if isinstance(record, Article) and known else record


def duplicate(article: Article) -> Rejection:
    """The rejection of an article whose id was read before."""
    detail = f"article id '{article.article_id}' was read before"
    shown = snippet(article.title or article.paragraphs[0])
    return Rejection(article.place, "duplicate_id", detail, shown, article.article_id)
