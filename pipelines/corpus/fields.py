"""The names that corpora give to an article's id, its title and its text: one table for every format.

The same names are looked for in JSON objects, in Parquet and Arrow columns and in the header of a tab-separated file.
The first name of a list that is there decides, so where a passage has an id of its own beside its document's
(MS MARCO), the passage's comes first. `--field ROLE=NAME` replaces a list by one name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ... import UsageError

ID_NAMES: Final = (
    "id",
    "_id",
    "pid",
    "passage_id",
    "psg_id",
    "docid",
    "doc_id",
    "document_id",
    "docno",
    "page_id",
    "pageid",
    "article_id",
    "wikipedia_id",
    "wiki_id",
    "kilt_id",
)
TITLE_NAMES: Final = (
    "title",
    "wikipedia_title",
    "page_title",
    "article_title",
    "document_title",
    "doc_title",
    "name",
)
TEXT_NAMES: Final = (
    "text",
    "contents",
    "content",
    "passage",
    "passage_text",
    "body",
    "segment",
    "paragraph",
    "paragraph_text",
    "chunk",
    "document",
    "abstract",
)
# An article that has its text or its id under one of these names was cut into passages by whoever made the corpus.
PASSAGE_NAMES: Final = frozenset({"passage", "passage_text", "segment", "chunk", "pid", "passage_id", "psg_id"})
KILT_ID_NAMES: Final = ("wikipedia_id", "_id")
KILT_TITLE_NAMES: Final = ("wikipedia_title",)
ROLES: Final = ("id", "title", "text")


@dataclass(frozen=True, slots=True)
class FieldNames:
    """Names of the fields that may hold an article's id, title and text, best first.

    `chosen` maps the roles that the user named a field for to that field.
    """

    ids: tuple[str, ...] = ID_NAMES
    titles: tuple[str, ...] = TITLE_NAMES
    texts: tuple[str, ...] = TEXT_NAMES
    chosen: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, chosen: Mapping[str, str] | None) -> FieldNames:
        """The table, with the user's own names in their places. Raises UsageError for an unknown role."""
        names = cls()
        for role, name in (chosen or {}).items():
            if role not in ROLES or not name:
                raise UsageError(f"--field {role}={name}: say id=NAME, title=NAME or text=NAME")
        own = dict(chosen or {})
        return replace(
            names,
            ids=(own["id"],) if "id" in own else names.ids,
            titles=(own["title"],) if "title" in own else names.titles,
            texts=(own["text"],) if "text" in own else names.texts,
            chosen=tuple(sorted(own.items())),
        )

    def fitted(self, present: Iterable[str]) -> FieldNames:
        """The same names, with the spelling (upper or lower case) that the fields `present` have."""
        spelled = {name.lower(): name for name in present}
        if all(lower == name for lower, name in spelled.items()):
            return self

        def respelled(names: Sequence[str]) -> tuple[str, ...]:
            return tuple(dict.fromkeys(spelling for name in names for spelling in (name, spelled.get(name, name))))

        return replace(self, ids=respelled(self.ids), titles=respelled(self.titles), texts=respelled(self.texts))

    def found(self, present: Iterable[str]) -> dict[str, str]:
        """Role -> the field that is used for it, of the fields `present`; roles without a field are left out."""
        there = set(present)
        roles = {"id": self.ids, "title": self.titles, "text": self.texts}
        first = {role: next((name for name in names if name in there), None) for role, names in roles.items()}
        return {role: name for role, name in first.items() if name is not None}

    def for_kilt(self) -> FieldNames:
        """The names that KILT gives; the user's own stay."""
        own = dict(self.chosen)
        return replace(
            self,
            ids=self.ids if "id" in own else KILT_ID_NAMES,
            titles=self.titles if "title" in own else KILT_TITLE_NAMES,
            texts=self.texts if "text" in own else ("text",),
        )


def parse_fields(options: Sequence[str]) -> dict[str, str]:
    """`id=pid`, `text=passage` … as a dictionary. Raises UsageError for anything else and for a role named twice."""
    chosen: dict[str, str] = {}
    for option in options:
        role, _, name = option.partition("=")
        if role not in ROLES or not name:
            raise UsageError(f"--field {option}: say id=NAME, title=NAME or text=NAME")
        if role in chosen:
            raise UsageError(f"--field {option}: the {role} is named twice; name one field for it")
        chosen[role] = name
    return chosen
