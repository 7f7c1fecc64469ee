"""Options about the corpus, the same for every command that reads one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ...corpus import format_names
from ...corpus.fields import parse_fields

Command = Callable[..., Any]

_FORMAT = click.option(
    "--format", "format_", type=click.Choice(format_names()), help="Format of the sources.  [default: by content]"
)
_FIELD = click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="ROLE=NAME",
    help="The field or column that holds the id, title or text, such as text=abstract; may be repeated."
    "  [default: the usual names]",
)
_MIXED = click.option("--mixed", is_flag=True, help="Accept files of different formats in one SOURCE.")


def corpus_options(command: Command) -> Command:
    """Adds `--format`, `--field` and `--mixed`, which the command takes as `format_`, `fields` and `mixed`."""
    return _FORMAT(_FIELD(_MIXED(command)))


def corpus_arguments(format_: str | None, fields: Sequence[str], mixed: bool) -> dict[str, Any]:
    """The options as keyword arguments of a job. Raises UsageError for a malformed `--field`."""
    return {"format": format_, "fields": parse_fields(fields) or None, "mixed": mixed}
