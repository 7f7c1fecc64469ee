"""`glimmer diff`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..printing import echo, print_json, shown_path
from ..tables import grid, pairs
from ..terminal import TerminalProgress
from .options import json_option, memory_argument

if TYPE_CHECKING:
    from ...maintenance.diff import VersionDiff

_WIDTH = 60


@click.command()
@memory_argument
@click.argument("old", metavar="V1", type=click.IntRange(min=0))
@click.argument("new", metavar="V2", type=click.IntRange(min=0))
@click.option(
    "--articles", "examples", type=click.IntRange(min=0), default=10, show_default=True, help="Articles to name."
)
@json_option
def diff(memory: str, old: int, new: int, examples: int, as_json: bool) -> None:
    """Show which passages and articles changed from version V1 to version V2.

    \b
    Example:
      glimmer diff wiki.memory 3 4
    """
    from ...maintenance.diff import diff as diff_job

    with TerminalProgress() as progress:
        found = diff_job(memory=memory, old=old, new=new, examples=examples, progress=progress)
    print_json(found.to_json()) if as_json else echo(table(found))


def table(found: VersionDiff) -> str:
    """Counts, then the articles with most changes."""
    counts = found.articles
    lines = [
        pairs(
            f"{shown_path(found.memory)}: version {found.old} to version {found.new}",
            {
                "passages": f"{found.added:,} added, {found.removed:,} removed, {found.kept:,} kept "
                f"({found.moved:,} of them moved)",
                "articles": f"{counts.added:,} added, {counts.changed:,} changed, {counts.removed:,} removed, "
                f"{counts.kept:,} kept",
            },
        )
    ]
    if found.examples:
        rows = [
            (e.change, e.article_id, shortened(e.title, 30), e.added, e.removed, e.moved, shortened(e.example, _WIDTH))
            for e in found.examples
        ]
        lines += ["", grid(("change", "article", "title", "added", "removed", "moved", "a passage"), rows)]
    return "\n".join(lines)


def shortened(text: str, width: int) -> str:
    """A text on one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
