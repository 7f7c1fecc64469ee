"""How a command shows a job's progress: bars on a terminal, lines in a log, nothing with `--quiet`.

Progress goes to standard error, so that standard output holds results only.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext

from ...progress import Progress, Quiet
from .verbosity import is_quiet


class TerminalProgress:
    """The progress callback for the place where standard error goes, as a context: `with … as progress`."""

    def __init__(self) -> None:
        self._display = _display()

    def __enter__(self) -> Progress:
        return self._display.__enter__()

    def __exit__(self, *error: object) -> None:
        self._display.__exit__(*error)  # type: ignore[arg-type]


def _display() -> AbstractContextManager[Progress]:
    if is_quiet():
        return nullcontext(Quiet())
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from .progress_bars import ProgressBars  # draws with rich, which is not imported where nothing is drawn

        return ProgressBars()
    from .progress_lines import ProgressLines

    return ProgressLines()
