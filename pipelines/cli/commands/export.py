"""`glimmer export`."""

from __future__ import annotations

import click

from ....storage.outputs import is_stream
from ....wording import counted
from ..printing import echo, print_json
from ..terminal import TerminalProgress
from .options import json_option, memory_argument, version_option


@click.command()
@memory_argument
@click.option(
    "--output", required=True, type=click.Path(dir_okay=False, allow_dash=True), help="A file; - is standard output."
)
@version_option
@json_option
def export(memory: str, output: str, version: int | None, as_json: bool) -> None:
    """Write a memory's live passages as JSON lines.

    \b
    Example:
      glimmer export wiki.memory --output passages.jsonl
    """
    from ...maintenance.export import export as export_job

    with TerminalProgress() as progress:
        result = export_job(memory=memory, output=output, version=version, progress=progress)
    piped = is_stream(output)  # the passages themselves are on standard output then
    if as_json:
        print_json(result.to_json(), err=piped)
        return
    done = "nothing to do, it holds the " if result.nothing_to_do else ""
    echo(f"{output}: {done}{counted(result.passages, 'passage')} of version {result.version}", err=piped)
