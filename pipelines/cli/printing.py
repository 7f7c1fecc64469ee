"""What commands print: results on standard output, remarks on standard error, neither with control characters.

Commands print through these functions alone, so that no title, id or file name can reach the terminal unfiltered.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ...storage.printable import printable, printable_json


def shown_path(path: str | os.PathLike[str]) -> str:
    """`path` as people would type it: relative where it lies below the working directory."""
    name = os.fspath(path)
    try:
        return os.path.relpath(name) if os.path.isabs(name) and Path(name).is_relative_to(os.getcwd()) else name
    except OSError:  # the working directory is gone
        return name


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints `text` and with `nl` a line end, on standard output or, with `err`, on standard error."""
    click.echo(printable(text), err=err, nl=nl)


def echo_marked(before: str, marked: str, after: str) -> None:
    """Prints a line with a marked part: bold on a terminal, between two asterisks elsewhere."""
    part = printable(marked)
    shown = click.style(part, bold=True) if sys.stdout.isatty() else f"**{part}**"
    click.echo(f"{printable(before)}{shown}{printable(after)}")


def print_json(record: Mapping[str, Any], *, err: bool = False) -> None:
    """Prints one JSON object, UTF-8, indented."""
    click.echo(printable_json(json.dumps(record, indent=2, ensure_ascii=False)), err=err)


def print_json_line(record: Mapping[str, Any]) -> None:
    """Prints one JSON object, UTF-8, on a line of its own."""
    click.echo(printable_json(json.dumps(record, ensure_ascii=False)))
