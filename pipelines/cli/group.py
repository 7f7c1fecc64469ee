"""The `glimmer` command. Each subcommand is a thin shell in `commands/` over a job that is a plain function.

A subcommand is imported when it is used, and its job when it runs, so that help, completions and wrong arguments need
neither JAX nor Beam. An error that Glimmer raises on purpose is printed in one line and ends the command with status 1,
a wrong command line with 2, any other exception with 70. Interruptions are `signals`' business.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Final

import click
from click.shell_completion import CompletionItem

from ... import GlimmerError, __version__
from ...storage.printable import printable_line
from .printing import echo
from .verbosity import is_debug, verbosity_options

_LONGEST_MESSAGE: Final = 500
_COMPLETION: Final = "_GLIMMER_COMPLETE"
"""Set by the shell when it asks for completions."""

# name -> (module under commands/, one line for the overview)
COMMANDS: Mapping[str, tuple[str, str]] = {
    "convert": ("convert", "Turn a T5 v1.1 or BERT checkpoint into a model directory."),
    "encode": ("encode", "Encode a corpus into a committed memory."),
    "refresh": ("refresh", "Bring a memory up to date with a corpus that changed."),
    "inspect": ("inspect", "Show what a memory holds and costs."),
    "verify": ("verify", "Read everything in a memory and list what is damaged."),
    "history": ("history", "List a memory's versions."),
    "diff": ("diff", "Show what changed between two versions."),
    "rollback": ("rollback", "Show an earlier version of a memory again."),
    "compact": ("compact", "Merge segments that hold many dead rows."),
    "vacuum": ("vacuum", "Delete what no kept version needs."),
    "repair": ("repair", "Repair what verify finds damaged."),
    "export": ("export", "Write a memory's live passages as JSON lines."),
    "index": ("index", "Build the first-stage index of a memory's version."),
    "search": ("search", "Look passages up in the first-stage index."),
    "ask": ("ask", "Ask a memory a question, or one after another."),
    "answer": ("answer", "Answer a file of questions from a memory."),
    "evaluate": ("evaluate", "Score predictions with KILT's metrics."),
    "tasks": ("tasks", "Make training questions out of a memory's own text."),
    "outlines": ("outlines", "Make questions of TREC CAR's outlines."),
    "train": ("train", "Train a reader on KILT-format tasks, from a memory."),
    "bench": ("bench", "Compare codecs on your own corpus and questions."),
    "estimate": ("estimate", "Estimate FLOPs, hours and bytes before spending them."),
    "demo": ("demo", "Encode real Wikipedia lead sections and ask them questions."),
}


class LazyGroup(click.Group):
    """A group whose subcommands are imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".commands.{COMMANDS[cmd_name][0]}", __package__)
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        if not any(parameter.name == "debug" for parameter in command.params):
            command.params += verbosity_options()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and not ctx.resilient_parsing:
            raise click.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands come from the table alone: completing one imports none of them."""
        if incomplete.startswith("-"):
            return [item for item in super().shell_complete(ctx, incomplete) if item.value.startswith("-")]
        return [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="glimmer")
def glimmer() -> None:
    """Precomputed memory for retrieval-augmented language models.

    Encode a corpus once, offline; answer from it fast. `glimmer COMMAND --help` shows each command with an example.
    """


glimmer.params += verbosity_options()


def run(arguments: Sequence[str]) -> int:
    """Runs the command that `arguments` name; returns its exit status.

    Errors become one line on standard error. Status 1 is an error that Glimmer raises on purpose, 2 a wrong command
    line, 70 any other exception, which is a mistake in Glimmer. `--debug` adds the traceback.
    """
    _quieten_libraries()
    context: click.Context | None = None
    try:
        if _COMPLETION in os.environ:
            glimmer.main(args=list(arguments), prog_name="glimmer", complete_var=_COMPLETION)
        with glimmer.make_context("glimmer", list(arguments)) as context:
            glimmer.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`glimmer export … | head`): not an error of ours.
        _discard_output()
        return 141
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # panics of Rust libraries derive from BaseException
        if is_debug(context):
            traceback.print_exc()
        message, status = describe_error(error)
        echo(message, err=True)
        _discard_output()
        return status


def describe_error(error: BaseException) -> tuple[str, int]:
    """The one line that stands for `error`, and the exit status."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message(), error.exit_code
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f"; see {context.command_path} --help" if context is not None else ""
        return f"glimmer: error: {printable_line(error.format_message()).rstrip('.')}{hint}", error.exit_code
    if isinstance(error, GlimmerError):
        return f"glimmer: error: {printable_line(str(error))}", 1
    if isinstance(error, MemoryError):
        return "glimmer: error: out of memory; free some, or take smaller batches (--batch-size)", 1
    if isinstance(error, OSError) and error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        return f"glimmer: error: standard output cannot be written: {error.strerror}", 1
    kind = type(error).__name__
    words = printable_line(str(error))[:_LONGEST_MESSAGE] or "no message"
    return (
        f"glimmer: internal error: {kind}: {words}; this is a mistake in Glimmer: please report it on its issue "
        "tracker, with what the same command prints with --debug",
        70,
    )


def _quieten_libraries() -> None:
    # Beam starts a gRPC server even in process; its fork handlers only add noise to standard error.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Beam logs the traceback of every step that fails, and the error itself comes to us.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL + 1)
    # Beam warns on import that BigQuery's client is not installed; nobody here asked for it.
    logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())


def _discard_output() -> None:
    """What is still buffered for a standard output that refuses it must not fail again when Python exits."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
