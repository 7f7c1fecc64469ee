"""`glimmer export`."""

from __future__ import annotations

import click

from ....storage.outputs import is_stream
from ..printing import echo
from ..terminal import TerminalProgress
from .options import memory_argument, version_option


@click.command()
@memory_argument
@click.option(
    "--output", required=True, type=click.Path(dir_okay=False, allow_dash=True), help="A file; - is standard output."
)
@version_option
def export(memory: str, output: str, version: int | None) -> None:
    """Write a memory's live passages as JSON lines.

    \b
    Example:
      glimmer export wiki.memory --output passages.jsonl
    """
    from ....storage.memory import Memory
    from ...maintenance.export import export as export_job

    opened = Memory.open(memory, version)
    with TerminalProgress() as progress:
        count = export_job(memory=opened, output=output, progress=progress)
    echo(f"{output}: {count:,} passages of version {opened.version}", err=is_stream(output))
