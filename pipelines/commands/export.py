"""`glimmer export`."""

from __future__ import annotations

import sys

import click

from ...storage.memory import Memory
from ..export import export as export_job
from ..export import export_lines
from ..progress import TerminalProgress
from .options import memory_argument, version_option


@click.command()
@memory_argument
@click.option("--output", required=True, type=click.Path(dir_okay=False, allow_dash=True), help="A file; - is stdout.")
@version_option
def export(memory: str, output: str, version: int | None) -> None:
    """Write a memory's live passages as JSON lines.

    \b
    Example:
      glimmer export wiki.memory --output passages.jsonl
    """
    opened = Memory.open(memory, version)
    if output == "-":
        for line in export_lines(opened):
            sys.stdout.buffer.write(line)
        return
    with TerminalProgress() as progress:
        count = export_job(memory=opened, output=output, progress=progress)
    click.echo(f"{output}: {count:,} passages of version {opened.version}")
