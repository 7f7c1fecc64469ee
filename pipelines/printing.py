"""What commands print: results on standard output, remarks on standard error, neither with control characters.

Commands print through these functions alone, so that no title, id or file name can reach the terminal unfiltered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from ..storage.printable import printable, printable_json


def echo(text: str, *, err: bool = False) -> None:
    """Prints `text` and a line end, on standard output or, with `err`, on standard error."""
    click.echo(printable(text), err=err)


def print_json(record: Mapping[str, Any], *, err: bool = False) -> None:
    """Prints one JSON object, UTF-8, indented."""
    click.echo(printable_json(json.dumps(record, indent=2, ensure_ascii=False)), err=err)
