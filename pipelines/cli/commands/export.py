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
    from ...maintenance.export import export as export_job

    with TerminalProgress() as progress:
        result = export_job(memory=memory, output=output, version=version, progress=progress)
    echo(f"{output}: {result.passages:,} passages of version {result.version}", err=is_stream(output))
