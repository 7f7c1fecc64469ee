"""The deletion list of a partial refresh: a file of article ids, one a line."""

from __future__ import annotations

from typing import Any

from ... import InputError
from ..corpus.content_identity import content_identities
from ..corpus.listing import read_lines, resolve


class DeletionList:
    """A file of article ids, one a line; a stream is copied once, when this is made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._files = resolve(name)

    def identity(self) -> dict[str, Any]:
        """The content identity of the list; JSON-able."""
        return {"kind": "files", "files": content_identities(self._files)}

    def ids(self) -> set[str]:
        """The ids, blank lines and blanks around them left out; InputError where a line is not text."""
        found: set[str] = set()
        for file in self._files:
            for number, line in read_lines(file):
                try:
                    found.add(line.decode().strip())
                except UnicodeDecodeError as error:
                    raise InputError(
                        "not UTF-8", where=f"{file.name}:{number}", remedy="give one article id a line"
                    ) from error
        return found
