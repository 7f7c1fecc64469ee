"""What a refresh is asked to do, checked before anything is read: sources, settings, and the version it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import UsageError
from ...encoders.models import LoadedModel, load_model
from ...storage.inputs import STDIN
from ...storage.memory import Memory
from ...storage.stores import Place
from ..corpus import Corpus
from ..corpus.listing import Sources, source_names
from ..corpus.ranges import RANGE_BYTES
from ..encoding.encoding_job import Encoding
from .deletions import DeletionList
from .removals import MAX_REMOVED, check_limit


@dataclass(frozen=True, kw_only=True)
class RefreshInputs:
    """One refresh, its arguments checked and its base version pinned.

    Attributes:
        base: the newest version of the memory.
        encoding: the memory's settings and a model that fits them.
        corpus: the sources, or a feed of changes with `partial`.
        deleted: with `partial`, the list of articles to remove.
        sources: names of the sources, as they were given.
        format, fields, strict, partial, max_removed, remove_absent, range_bytes: see
            `refresh`.
    """

    base: Memory
    encoding: Encoding
    corpus: Corpus
    deleted: DeletionList | None
    sources: list[str]
    format: str | None
    fields: Mapping[str, str] | None
    strict: bool
    partial: bool
    max_removed: float | int
    remove_absent: bool
    range_bytes: int

    @classmethod
    def open(
        cls,
        *,
        sources: Sources,
        memory: Place,
        model: str | None = None,
        format: str | None = None,
        fields: Mapping[str, str] | None = None,
        mixed: bool = False,
        strict: bool = False,
        partial: bool = False,
        deleted: str | Path | None = None,
        max_removed: float | int = MAX_REMOVED,
        remove_absent: bool = False,
        range_bytes: int = RANGE_BYTES,
    ) -> RefreshInputs:
        """Checks the arguments of `refresh` and opens what they name; raises as it does."""
        check_limit(max_removed)
        if deleted is not None and not partial:
            raise UsageError("a list of deleted articles goes with a partial feed: add --partial, or leave it out")
        if remove_absent and partial:
            raise UsageError("of a partial feed no article is absent: leave out --remove-absent, or --partial")
        names = source_names(sources)
        if not names and deleted is None:
            raise UsageError("no source given")
        if deleted is not None and str(deleted) == STDIN in names:
            raise UsageError("standard input (-) is named twice; name it once")
        corpus = Corpus(names, format=format, fields=fields, mixed=mixed, may_be_empty=partial)
        listed = None if deleted is None else DeletionList(str(deleted))
        base = Memory.open(memory)
        return cls(
            base=base,
            encoding=Encoding.checked(_model(model, base), base.identity, base.location),
            corpus=corpus,
            deleted=listed,
            sources=names,
            format=format,
            fields=fields,
            strict=strict,
            partial=partial,
            max_removed=max_removed,
            remove_absent=remove_absent,
            range_bytes=range_bytes,
        )

    def depends_on(self) -> dict[str, Any]:
        """All that the result depends on; the sources are read for it.

        `max_removed` is no part of it: what is planned does not depend on it.
        """
        found: dict[str, Any] = {
            "sources": self.corpus.identity(),
            "deleted": None if self.deleted is None else self.deleted.identity(),
            "partial": self.partial,
            "format": self.format,
            "strict": self.strict,
            "base": self.base.version,
            "content": self.base.manifest.content_sha256,
            "identity": self.base.manifest.identity_sha256,
        }
        if self.fields:
            found["fields"] = dict(self.fields)
        if self.remove_absent:
            found["remove_absent"] = True
        return found


def _model(name: str | None, base: Memory) -> LoadedModel:
    """The model asked for, else the one that the memory names."""
    encoder = base.identity.encoder
    try:
        return load_model(name if name is not None else encoder.source)
    except UsageError as error:
        if name is not None:
            raise
        raise UsageError(
            f"{base.location} was made by the encoder {encoder.name} from {encoder.source}, which is not there any "
            f"more; give it with --model"
        ) from error
