"""The process behind the `glimmer` command: signals first, then everything that takes time to import."""

from __future__ import annotations

import sys

from .signals import exit_on_signals


def main() -> None:
    """Entry point of the command: runs what the arguments say and ends the process with its status."""
    exit_on_signals()
    from .cli import run

    sys.exit(run(sys.argv[1:]))
