"""`glimmer index`."""

from __future__ import annotations

import click

from ...storage.memory import Memory
from ..index import open_index
from ..printing import echo, print_json
from ..progress import TerminalProgress
from .options import json_option, memory_argument, version_option


@click.command()
@memory_argument
@version_option
@click.option("--rebuild", is_flag=True, help="Build it even if a sound one is there.")
@json_option
def index(memory: str, version: int | None, rebuild: bool, as_json: bool) -> None:
    """Build the first-stage index of a memory's version.

    An index that is there is read whole and kept if it is sound. `glimmer answer` and `glimmer search` build it on
    first use; this builds it beforehand.

    \b
    Example:
      glimmer index wiki.memory
    """
    opened = Memory.open(memory, version)
    with TerminalProgress() as progress:
        found = open_index(opened, progress=progress, rebuild=rebuild, verify=True)
    record = {"memory": memory, "version": opened.version, "passages": found.count, "directory": str(found.directory)}
    if as_json:
        print_json(record)
    else:
        echo(f"{found.directory}: {found.count:,} passages of version {opened.version}")
