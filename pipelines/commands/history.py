"""`glimmer history`."""

from __future__ import annotations

import click

from ...storage.catalog import Catalog
from ..printing import echo, print_json
from ..tables import grid
from .options import json_option, memory_argument


@click.command()
@memory_argument
@json_option
def history(memory: str, as_json: bool) -> None:
    """List a memory's versions, newest first.

    \b
    Example:
      glimmer history wiki.memory
    """
    versions = [
        {
            "version": manifest.version,
            "time": manifest.time,
            "operation": manifest.operation,
            "added": manifest.rows_added,
            "removed": manifest.rows_removed,
            "passages": manifest.passages,
            "tokens": manifest.tokens,
            "segments": len(manifest.segments),
            "job": manifest.job,
        }
        for manifest in Catalog(memory).history()
    ]
    if as_json:
        print_json({"memory": memory, "versions": versions})
    else:
        echo(grid(list(versions[0]), [list(version.values()) for version in versions]))
