"""The `glimmer` command. Each subcommand is a thin shell in `commands/` over a job that is a plain function.

Subcommands load when they are used, so that `glimmer --help` need not import JAX or Beam. An error that Glimmer raises
on purpose is printed in one line and ends the command with status 1; a wrong command line ends with click's status 2.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping

import click

from .. import GlimmerError, __version__

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
    "repair": ("repair", "Mend what verify finds damaged."),
    "export": ("export", "Write a memory's live passages as JSON lines."),
    "index": ("index", "Build the first-stage index of a memory's version."),
    "search": ("search", "Look passages up in the first-stage index."),
    "answer": ("answer", "Answer a file of questions from a memory."),
    "evaluate": ("evaluate", "Score predictions with KILT's metrics."),
    "tasks": ("tasks", "Make training questions out of a memory's own text."),
    "train": ("train", "Train a reader on KILT-format tasks, from a memory."),
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
        module = importlib.import_module(f"..commands.{COMMANDS[cmd_name][0]}", __name__)
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="glimmer")
def glimmer() -> None:
    """Precomputed memory for retrieval-augmented language models.

    Encode a corpus once, offline; answer from it fast. `glimmer COMMAND --help` shows each command with an example.
    """


def main() -> None:
    """Entry point: runs the command and turns errors into one line and an exit status."""
    # Beam starts a gRPC server even in process; its fork handlers only add noise to standard error.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Beam warns on import that BigQuery's client is not installed; nobody here asked for it.
    logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
    try:
        glimmer(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("glimmer: interrupted; run the same command again to go on", err=True)
        sys.exit(130)
    except GlimmerError as error:
        click.echo(f"glimmer: error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output went away (`glimmer export … | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
