"""`glimmer history`."""

from __future__ import annotations

import click

from ..printing import echo, print_json
from ..tables import grid
from .options import json_option, memory_argument


@click.command()
@memory_argument
@json_option
def history(memory: str, as_json: bool) -> None:
    """List a memory's versions, newest first.

    A version marked `vacuumed` has lost files to `glimmer vacuum`: it can be neither opened nor rolled back to.

    \b
    Example:
      glimmer history wiki.memory
    """
    from ...maintenance.history import history as history_of

    versions = history_of(memory=memory)
    if as_json:
        print_json({"memory": memory, "versions": [version.to_json() for version in versions]})
        return
    header = [name for name in versions[0].to_json() if name != "vacuumed" or any(v.vacuumed for v in versions)]
    rows = [version.to_json() | {"vacuumed": "vacuumed" if version.vacuumed else ""} for version in versions]
    echo(grid(header, [[row[name] for name in header] for row in rows]))
