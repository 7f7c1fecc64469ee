"""`glimmer compact`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ...defaults import DEFAULT_DEAD_SHARE
from ..printing import echo, print_json, shown_path
from ..tables import duration, pairs, size
from ..terminal import TerminalProgress
from .options import json_option, memory_argument

if TYPE_CHECKING:
    from ...maintenance.compact import CompactResult


@click.command()
@memory_argument
@click.option(
    "--dead-share",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULT_DEAD_SHARE,
    show_default=True,
    help="Merge segments with a larger share of dead rows.",
)
@click.option(
    "--index/--no-index",
    default=None,
    help="Build the new version's first-stage index.  [default: if the version before has one]",
)
@json_option
def compact(memory: str, dead_share: float, index: bool | None, as_json: bool) -> None:
    """Merge segments that hold many dead rows into one new segment.

    Codes and texts are copied, never encoded again; the passages stay what they are. The old segments are deleted by
    `glimmer vacuum` once no kept version needs them. Running the same command again resumes an interrupted job.

    \b
    Example:
      glimmer compact wiki.memory --dead-share 0.2
    """
    from ...maintenance.compact import compact as compact_job

    with TerminalProgress() as progress:
        result = compact_job(memory=memory, dead_share=dead_share, index=index, progress=progress)
    print_json(result.to_json()) if as_json else echo(_summary(result, dead_share))


def _summary(result: CompactResult, dead_share: float) -> str:
    if result.nothing_to_do:
        return (
            f"{shown_path(result.memory)}: nothing to do, no segment of version {result.version} has more than "
            f"{dead_share:.0%} dead rows"
        )
    rows: dict[str, object] = {
        "merged segments": len(result.merged),
        "rows copied": result.rows,
        "dead rows left behind": result.dead_rows,
        "bytes": f"{size(result.bytes_written)} written; a vacuum can free {size(result.bytes_before)}",
    }
    for stage, seconds in result.seconds.items():
        rows[f"{stage} time"] = duration(seconds)
    return pairs(f"{shown_path(result.memory)}: version {result.version} committed, from version {result.base}", rows)
