"""The source formats there are, in the order in which a file is tried.

A format is added by one file. In this package the file only has to be here: every module of `formats` is imported when
formats are first asked for, and calls `register_format`. Another package names its module in the entry point group
`glimmer.source_formats`:

    [project.entry-points."glimmer.source_formats"]
    trec = "my_package.trec"
"""

from __future__ import annotations

import functools
import importlib
import logging
import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points

from .... import UsageError
from .base import SourceFormat

ENTRY_POINTS = "glimmer.source_formats"
_log = logging.getLogger(__name__)
_registered: dict[str, tuple[int, SourceFormat]] = {}


def register_format(format: SourceFormat, *, order: int = 0) -> None:
    """Makes a format known under its name.

    Args:
        format: reads files of it.
        order: a file is tried as the formats of lower numbers first; the built-in ones have 10 to 110, from those that
            are known by marks of their own to those that take any table.

    Raises UsageError where another format has that name.
    """
    known = _registered.get(format.name)
    if known is not None and type(known[1]) is not type(format):
        raise UsageError(f"a source format named {format.name!r} is registered already")
    _registered[format.name] = (order, format)


def source_formats() -> Mapping[str, SourceFormat]:
    """Name -> format, in the order in which a file is tried."""
    _import_all()
    ordered = sorted(_registered.items(), key=lambda item: item[1][0])
    return {name: format for name, (_, format) in ordered}


@functools.cache
def _import_all() -> None:
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:  # somebody else's module must not keep every command from running
            _log.warning("the source format %s (%s) cannot be loaded: %s", point.name, point.value, error)
