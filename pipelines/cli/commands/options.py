"""Options that several commands share, worded once."""

from __future__ import annotations

import click

from ...engines import IN_PROCESS, Engine

memory_argument = click.argument("memory", type=click.Path(file_okay=False))
version_option = click.option(
    "--version", "version", type=click.IntRange(min=0), default=None, help="Version to look at.  [default: the newest]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object for scripts.")
runner_option = click.option(
    "--runner",
    default=IN_PROCESS,
    show_default=True,
    help="Where the Beam graph runs: in this process, or the name of a Beam runner.",
)
runner_options_option = click.option(
    "--runner-option",
    "runner_options",
    multiple=True,
    metavar="NAME=VALUE",
    help="A Beam pipeline option for the runner; may be repeated.",
)


def engine(runner: str, options: tuple[str, ...]) -> Engine:
    """The engine that `--runner` and `--runner-option` ask for."""
    return Engine(runner=runner, options=[f"--{option.removeprefix('--')}" for option in options])
