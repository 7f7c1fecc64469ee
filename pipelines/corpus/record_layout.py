"""How one file is read: the fields that hold ids, titles and texts, and whether others cut its passages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .fields import FieldNames


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What sniffing a file found out.

    Attributes:
        names: names of fields to look for in each record.
        used: role (`id`, `title`, `text`) -> the field that the file's first records have for it, for messages.
        whole: the passages were cut by others; see `Article.whole`.
        kilt: `text` is a list of paragraphs, whose first is the title.
        title_line: texts begin with a line that is the title.
        columns: of a file without names: role -> position, from 0.
        width: columns of a tab-separated file.
        header: a tab-separated file begins with a line of names.
    """

    names: FieldNames = field(default_factory=FieldNames)
    used: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False
    kilt: bool = False
    title_line: bool = False
    columns: Mapping[str, int] = field(default_factory=dict)
    width: int = 0
    header: bool = False

    def describe(self) -> str:
        """`id, title and text from pid, name and passage; passages kept whole`, for the user."""
        shown = ", ".join(f"{role} from {name}" for role, name in self.used.items())
        if self.title_line:
            shown += ", title from the text's first line"
        return shown + ("; passages are kept whole" if self.whole else "")
