"""`glimmer tasks`."""

from __future__ import annotations

import click

from ....storage.outputs import is_stream
from ..printing import echo, print_json, shown_path
from ..tables import grid
from ..terminal import TerminalProgress
from .options import json_option, memory_argument, version_option


@click.command()
@memory_argument
@click.option(
    "--output", required=True, type=click.Path(), help="Directory to make, one KILT file a task; - is standard output."
)
@version_option
@click.option(
    "--per-passage",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="Cloze questions and facts tried a passage.",
)
@click.option("--seed", default=0, show_default=True, help="The same seed and passages give the same files.")
@json_option
def tasks(memory: str, output: str, version: int | None, per_passage: int, seed: int, as_json: bool) -> None:
    """Make training questions out of a memory's own text.

    Writes KILT files with provenance: cloze questions, facts asked for in plain words, descriptions, titles, slots
    (`entity [SEP] relation`), true and false claims, and spans to copy. `glimmer train` mixes them with human
    questions. An output that holds the same files is left as it is.

    \b
    Example:
      glimmer tasks wiki.memory --output tasks
    """
    from ...tasks import make_tasks

    with TerminalProgress() as progress:
        result = make_tasks(
            memory=memory, output=output, version=version, per_passage=per_passage, seed=seed, progress=progress
        )
    piped = is_stream(output)  # the questions themselves are on standard output then
    if as_json:
        print_json(result.to_json(), err=piped)
        return
    rows = [(name, result.questions[name], str(path)) for name, path in result.files.items()]
    if result.nothing_to_do:
        echo(f"{shown_path(result.output)}: nothing to do, these questions are there already")
    echo(grid(("task", "questions", "file"), rows), err=piped)
