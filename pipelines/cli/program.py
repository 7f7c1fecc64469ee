"""The process behind the `glimmer` command: signals first, then everything that takes time to import."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys

from .signals import exit_on_signals


def main() -> None:
    """Entry point of the command: runs what the arguments say and ends the process with its status."""
    exit_on_signals()
    from ..engines.frozen_heap import collect_seldom

    collect_seldom()
    from .group import run

    try:
        status = run(sys.argv[1:])
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    _end(status)


def _end(status: int) -> None:
    """Ends the process once everything that was registered for its end has run.

    Taking the interpreter apart, module by module, would take another tenth of a second or more, during which a signal
    is nobody's and ends the process without a word.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(status)
