"""`glimmer vacuum`."""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING, Final

import click

from ....wording import counted
from ...defaults import DEFAULT_VERSIONS
from ..printing import echo, print_json, shown_path
from ..tables import pairs, size
from ..terminal import TerminalProgress
from .options import json_option, memory_argument

if TYPE_CHECKING:
    from ...maintenance.vacuum import VacuumResult

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SHOWN: Final = 20


class Age(click.ParamType[datetime.timedelta]):
    """A length of time: a number and one of s, m, h, d, w; a bare 0 too."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime.timedelta:
        if isinstance(value, datetime.timedelta):
            return value
        match = re.fullmatch(r"(\d{1,6})([smhdw])", "0s" if value == "0" else str(value))
        if match is None:
            self.fail(f"{value!r} is not a length of time such as 12h, 7d or 2w", param, ctx)
        return datetime.timedelta(**{_UNITS[match.group(2)]: int(match.group(1))})


@click.command()
@memory_argument
@click.option(
    "--older-than", type=Age(), default="7d", show_default=True, help="Delete only what is older: 12h, 7d, 2w."
)
@click.option(
    "--keep-versions",
    type=click.IntRange(min=1),
    default=DEFAULT_VERSIONS,
    show_default=True,
    help="Keep so many of the newest versions, however old.",
)
@click.option("--dry-run", is_flag=True, help="List what would be deleted; delete nothing.")
@json_option
def vacuum(memory: str, older_than: datetime.timedelta, keep_versions: int, dry_run: bool, as_json: bool) -> None:
    """Delete what no kept version and no unfinished job needs.

    Kept are the newest versions and all that were in use within the threshold. Older versions can no longer be opened
    or rolled back to once they lose a file; they stay in the history.

    \b
    Example:
      glimmer vacuum wiki.memory --older-than 7d --dry-run
    """
    from ...maintenance.vacuum import vacuum as vacuum_job

    with TerminalProgress() as progress:
        result = vacuum_job(
            memory=memory, older_than=older_than, keep_versions=keep_versions, dry_run=dry_run, progress=progress
        )
    print_json(result.to_json()) if as_json else echo(_summary(result))


def _summary(result: VacuumResult) -> str:
    memory = shown_path(result.memory)
    freed = f"{size(result.bytes)} in {counted(len(result.paths), 'file or directory', 'files and directories')}"
    title = f"Dry run: {memory} would lose {freed}" if result.dry_run else f"{memory}: {freed} deleted"
    rows: dict[str, object] = {"kept versions": f"{result.oldest:,} to {result.newest:,}"}
    if result.paths:
        rows |= {
            "segments": result.segments,
            "catalog files": result.catalog_files,
            "indexes": result.indexes,
            "job directories": result.jobs,
            "leftovers": result.leftovers,
        }
    else:
        title = f"{memory}: nothing to do, no file that is old enough is unneeded"
    if result.kept_jobs:
        rows["unfinished jobs kept"] = ", ".join(result.kept_jobs)
    lines = [pairs(title, rows)]
    if result.dry_run:
        lines += [f"  {path}" for path in result.paths[:_SHOWN]]
        if len(result.paths) > _SHOWN:
            lines.append(f"  … and {len(result.paths) - _SHOWN:,} more; --json lists all")
    return "\n".join(lines)
