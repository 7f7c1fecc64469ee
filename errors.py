"""The tree of errors that Glimmer raises on purpose: each says what is wrong, where, and what to do about it."""

from __future__ import annotations

import os
from typing import Any, Self


class GlimmerError(Exception):
    """Base of every error Glimmer raises on purpose.

    Args:
        what: what is wrong, in words for people. Where no `where` or `remedy` is given, the whole message.
        where: the file, directory, record or argument it is about.
        remedy: what to do about it.

    `str(error)` is `where: what; remedy`. Callers that need a part take the attribute; nobody takes messages apart.
    Every error of the tree, with whatever attributes a subclass adds, survives pickling from a worker process.
    """

    def __init__(self, what: str, *, where: str | os.PathLike[str] | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else os.fspath(where)
        self.remedy = remedy

    @property
    def problem(self) -> str:
        """`where: what`, for callers that have a remedy of their own."""
        return self.what if self.where is None else f"{self.where}: {self.what}"

    def __str__(self) -> str:
        return self.problem if self.remedy is None else f"{self.problem}; {self.remedy}"

    def at(self, where: str | os.PathLike[str]) -> Self:
        """This error with a place, if it has none yet; for those who know the file that a check is about."""
        if self.where is None:
            self.where = os.fspath(where)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with `args`, which a subclass with arguments of its own does not take.
        return _restored, (type(self), self.args, dict(self.__dict__))


def _restored(kind: type[GlimmerError], args: tuple[Any, ...], attributes: dict[str, Any]) -> GlimmerError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class InputError(GlimmerError):
    """A source, query or gold file is malformed; the caller fixes the file (the message has file and line)."""


class UsageError(GlimmerError):
    """The request itself cannot be met: settings that contradict each other, a path that does not exist."""


class PassageNotFoundError(UsageError, KeyError):
    """A version of a memory has no passage of that id; a KeyError too, as mappings raise it."""


class ModelError(GlimmerError):
    """A model directory or checkpoint is incomplete, malformed or of an unsupported kind."""


class MismatchError(GlimmerError):
    """Two sound things do not belong together, such as a memory and another encoder."""


class ConflictError(GlimmerError):
    """Another job changed the memory first, or is running now; the caller may try again."""


class DamageError(GlimmerError):
    """Stored bytes are not what was written; the caller runs `glimmer verify` and `glimmer repair`."""


class StorageError(GlimmerError):
    """The file system refused: disk full, read-only, permission; the caller makes room or chooses another place."""
