"""`glimmer verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..printing import echo, print_json
from ..tables import size
from ..terminal import TerminalProgress
from .options import json_option, memory_argument, version_option

if TYPE_CHECKING:
    from ....storage.verify import VerifyReport

_SHOWN = 50


@click.command()
@memory_argument
@version_option
@json_option
def verify(memory: str, version: int | None, as_json: bool) -> None:
    """Read everything in a memory and list what is damaged.

    Exit status 1 when anything is. Every damage names its file, the passages it touches and the command that mends it.

    \b
    Example:
      glimmer verify wiki.memory
    """
    from ...maintenance.verification import verify as verify_job

    with TerminalProgress() as progress:
        report = verify_job(memory=memory, version=version, progress=progress)
    if as_json:
        print_json(asdict(report) | {"sound": report.sound})
    else:
        echo(verdict(memory, report))
    if not report.sound:
        sys.exit(1)


def verdict(memory: str, report: VerifyReport) -> str:
    """One line when all is well, else a line for each damage."""
    read = f"{report.passages:,} passages, {report.tokens:,} tokens, {report.shards:,} shards, {size(report.bytes)}"
    if report.sound:
        return f"{memory}: version {report.version} is whole ({read} read)"
    lines = [str(damage) for damage in report.damages[:_SHOWN]]
    if len(report.damages) > _SHOWN:
        lines.append(f"… and {len(report.damages) - _SHOWN} more; --json lists all")
    count = len(report.damages)
    return "\n".join([f"{memory}: {count:,} damaged place{'s' if count > 1 else ''} ({read} read)", *lines])
