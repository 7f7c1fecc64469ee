"""How much a command says: `--quiet`, `--verbose` and `--debug`, before or after the command's name.

Results and errors are always shown. `--quiet` leaves out progress and notes; `--verbose` adds the log of `glimmer.*`,
whose loggers speak at the boundaries of a job's stages, and twice given also details; `--debug` adds the traceback of
an error. They are kept with the command line's root context, so that nothing of one run is left for the next.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

import click

from ...storage.printable import printable

_QUIET, _VERBOSE, _DEBUG, _LOGGING = (f"glimmer.{name}" for name in ("quiet", "verbose", "debug", "logging"))
_FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s"


def verbosity_options() -> list[click.Option]:
    """The options, made anew for each command that gets them."""
    return [
        click.Option(
            ["-q", "--quiet"], is_flag=True, expose_value=False, callback=_quiet, help="No progress and no notes."
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=_verbose,
            help="Log each stage to standard error; -vv logs details.",
        ),
        click.Option(
            ["--debug"], is_flag=True, expose_value=False, callback=_debug, help="Show the traceback of an error."
        ),
    ]


def is_quiet() -> bool:
    """Whether the command that runs now was given `--quiet`; False where none does."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def is_debug(context: click.Context | None) -> bool:
    """Whether `--debug` was given."""
    return context is not None and bool(context.meta.get(_DEBUG))


def _quiet(context: click.Context, _option: click.Parameter, given: bool) -> None:
    if given:
        context.meta[_QUIET] = True
        _refuse_both(context)
        _log_from(context, logging.ERROR)


def _verbose(context: click.Context, _option: click.Parameter, times: int) -> None:
    if times:
        context.meta[_VERBOSE] = context.meta.get(_VERBOSE, 0) + times
        _refuse_both(context)
        _log_from(context, logging.INFO if context.meta[_VERBOSE] == 1 else logging.DEBUG)


def _debug(context: click.Context, _option: click.Parameter, given: bool) -> None:
    if given:
        context.meta[_DEBUG] = True
        # Beam logs the traceback of every step that fails; without --debug nobody wants it.
        logging.getLogger("apache_beam").setLevel(logging.WARNING)


def _refuse_both(context: click.Context) -> None:
    if context.meta.get(_QUIET) and context.meta.get(_VERBOSE):
        raise click.UsageError("--quiet and --verbose exclude each other", context)


def _log_from(context: click.Context, level: int) -> None:
    """Sends the loggers `glimmer.*` to standard error from `level` on, until the command has ended."""
    logger = logging.getLogger("glimmer")
    if _LOGGING not in context.meta:
        context.meta[_LOGGING] = handler = _StderrHandler()
        handler.setFormatter(_Printable(_FORMAT, datefmt="%H:%M:%S"))
        before = logger.level, logger.propagate

        def undo() -> None:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before

        logger.addHandler(handler)
        logger.propagate = False  # some library may have given the root logger a handler of its own
        context.find_root().call_on_close(undo)
    logger.setLevel(level)


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the time: while bars are drawn, lines go above them."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        raise AttributeError("the stream is sys.stderr")


class _Printable(logging.Formatter):
    """A log line without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
