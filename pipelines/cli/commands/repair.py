"""`glimmer repair`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ....wording import counted
from ...engines import Engine
from ..printing import echo, print_json, shown_path
from ..terminal import TerminalProgress
from .options import engine_options, json_option, memory_argument, version_option

if TYPE_CHECKING:
    from ...maintenance.repair_report import RepairResult

_SHOWN = 50


@click.command()
@memory_argument
@click.option("--model", help="A model with the memory's encoder.  [default: the one the memory names]")
@version_option
@click.option("--drop", is_flag=True, help="Give up passages whose text is lost; a refresh adds them again.")
@engine_options
@json_option
def repair(memory: str, model: str | None, version: int | None, drop: bool, engine: Engine, as_json: bool) -> None:
    """Repair what verify finds damaged.

    Codes are encoded again from the stored text, metadata and indexes made again from the catalog. A file is replaced
    only by bytes with the recorded digest; otherwise its rows move to a new segment in a new version. Exit status 1
    when something stays damaged.

    \b
    Example:
      glimmer repair wiki.memory
    """
    from ...maintenance.repair import repair as repair_job

    with TerminalProgress() as progress:
        result = repair_job(memory=memory, model=model, version=version, drop=drop, engine=engine, progress=progress)
    print_json(result.to_json()) if as_json else echo(_summary(result))
    if not result.sound:
        sys.exit(1)


def _summary(result: RepairResult) -> str:
    if not result.found:
        return f"{shown_path(result.memory)}: nothing to do, version {result.version} is whole"
    lines = [f"{shown_path(result.memory)}: damaged places: {result.found:,} found, {len(result.remaining):,} left"]
    lines += [f"  {path}: {how}" for path, how in list(result.repaired.items())[:_SHOWN]]
    if len(result.repaired) > _SHOWN:
        lines.append(f"  … and {len(result.repaired) - _SHOWN:,} more; --json lists all")
    if result.recoded:
        lines.append(f"  {counted(result.recoded, 'passage')} encoded again")
    if result.new_version is not None:
        lines.append(f"  version {result.new_version} committed; readers of older versions still see the damage")
    if result.dropped:
        again = f"glimmer refresh SOURCE... --memory {shown_path(result.memory)}"
        lines.append(f"  {counted(len(result.dropped), 'passage')} given up; `{again}` adds them again")
    lines += [f"still {damage}" for damage in result.remaining[:_SHOWN]]
    return "\n".join(lines)
