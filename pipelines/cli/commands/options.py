"""Options that several commands share, worded once."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from .... import UsageError
from ...engines import IN_PROCESS, Engine


class _Codec(click.ParamType[str]):
    """A codec's name, with parameters if it takes some; checked, and handed on as it was written."""

    name = "codec"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        from ....storage.codecs import codec_names

        return f"[{'|'.join(codec_names())}][:KEY=VALUE,...]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from ....storage.codecs import parse_codec_text

        try:
            parse_codec_text(str(value))
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from ....storage.codecs import codec_names

        return [CompletionItem(name) for name in codec_names() if name.startswith(incomplete)]


memory_argument = click.argument("memory", type=click.Path(file_okay=False))
version_option = click.option(
    "--version", "version", type=click.IntRange(min=0), default=None, help="Version to look at.  [default: the newest]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object for scripts.")
codec_option = click.option(
    "--codec", type=_Codec(), default="int8", show_default=True, help="How token representations are stored."
)
runner_option = click.option(
    "--runner",
    default=IN_PROCESS,
    show_default=True,
    help="Where the Beam graph runs: in this process, or the name of a Beam runner.",
)
runner_options_option = click.option(
    "--runner-option",
    "runner_options",
    multiple=True,
    metavar="NAME=VALUE",
    help="A Beam pipeline option for the runner; may be repeated.",
)


def engine(runner: str, options: tuple[str, ...]) -> Engine:
    """The engine that `--runner` and `--runner-option` ask for."""
    return Engine(runner=runner, options=[f"--{option.removeprefix('--')}" for option in options])
