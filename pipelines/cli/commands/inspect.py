"""`glimmer inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..printing import echo, print_json
from ..tables import pairs, size
from .options import json_option, memory_argument, version_option

if TYPE_CHECKING:
    from ....storage.statistics import Inspection

_BAR = 40


@click.command()
@memory_argument
@version_option
@json_option
def inspect(memory: str, version: int | None, as_json: bool) -> None:
    """Show what a memory holds and costs.

    \b
    Example:
      glimmer inspect wiki.memory
    """
    from ....storage.memory import Memory
    from ....storage.statistics import inspect_memory

    found = inspect_memory(Memory.open(memory, version))
    print_json(found.to_json()) if as_json else echo(facts(memory, found))


def facts(memory: str, found: Inspection) -> str:
    """What a memory holds, as a table and a histogram."""
    table = pairs(
        memory,
        {
            "version": found.version,
            "articles": found.articles,
            "passages": found.passages,
            "tokens": found.tokens,
            "segments": f"{found.segments:,}  ({found.rows - found.passages:,} of {found.rows:,} rows dead)",
            "on disk": f"{size(found.bytes_on_disk)}, {found.bytes_per_token:,.1f} bytes a token",
            "codec": f"{found.codec}, {found.code_bytes} bytes a token before compression",
            "encoder": f"{found.encoder} ({found.fingerprint[:12]}…)",
        },
    )
    most = max((count for *_, count in found.histogram), default=0)
    if not most:
        return table
    bars = [
        f"  {first:>4}-{last:<4} {'█' * round(_BAR * count / most) or '▏' if count else '':<{_BAR}} {count:>10,}"
        for first, last, count in found.histogram
    ]
    return "\n".join([table, "", "  passages by length in tokens", *bars])
