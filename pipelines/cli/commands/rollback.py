"""`glimmer rollback`."""

from __future__ import annotations

import click

from ....wording import counted
from ..printing import echo, print_json
from ..terminal import TerminalProgress
from .options import json_option, memory_argument


@click.command()
@memory_argument
@click.option("--version", required=True, type=click.IntRange(min=0), help="The version to show again.")
@click.option(
    "--index/--no-index",
    default=None,
    help="Give the new version its first-stage index.  [default: if that version or the newest has one]",
)
@json_option
def rollback(memory: str, version: int, index: bool | None, as_json: bool) -> None:
    """Show an earlier version again, as a new version that can be rolled back too.

    Readers that opened another version keep it.

    \b
    Example:
      glimmer rollback wiki.memory --version 3
    """
    from ...maintenance.rollback import rollback as rollback_job

    with TerminalProgress() as progress:
        result = rollback_job(memory=memory, to=version, index=index, progress=progress)
    if as_json:
        print_json(result.to_json() | {"memory": memory})
        return
    holds = f"version {result.version} holds what version {version} held"
    done = "nothing to do, " if result.nothing_to_do else ""
    echo(f"{memory}: {done}{holds}: {counted(result.passages, 'passage')}")
