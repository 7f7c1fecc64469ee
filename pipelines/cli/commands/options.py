"""Options that several commands share, worded once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from .... import UsageError
from ...engines.engine import IN_PROCESS, STALL_SECONDS, Engine


class CodecType(click.ParamType[str]):
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
    "--codec", type=CodecType(), default="int8", show_default=True, help="How token representations are stored."
)
codec_or_tables_option = click.option(
    "--codec",
    type=CodecType(),
    default=None,
    help="How token representations are stored.  [default: that of --codec-tables, or int8]",
)
range_option = click.option(
    "--range-mb",
    type=click.FloatRange(min=0, min_open=True),
    default=64.0,
    show_default=True,
    help="Sources are planned in ranges of about so many MB, which workers share.",
)
_ENGINE_OPTIONS = (
    click.option(
        "--runner",
        default=IN_PROCESS,
        show_default=True,
        help="Where the work is done: in-process, dask, portable (a Beam job server), or the name of a Beam runner.",
    ),
    click.option(
        "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes on this machine."
    ),
    click.option("--cluster", metavar="HOST:PORT", help="Of --runner dask: the address of the scheduler."),
    click.option("--endpoint", metavar="HOST:PORT", help="Of --runner portable: the address of the job server."),
    click.option(
        "--runner-option",
        "runner_options",
        multiple=True,
        metavar="NAME=VALUE",
        help="A Beam pipeline option for a Beam runner; may be repeated.",
    ),
    click.option(
        "--stall-seconds",
        type=click.FloatRange(min=1),
        default=STALL_SECONDS,
        show_default=True,
        help="Give up the job of a Beam runner that makes no progress for so long.",
    ),
)


def engine_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say where its work is done, as the argument `engine`."""

    @functools.wraps(command)
    def with_engine(
        *arguments: Any,
        runner: str,
        workers: int,
        cluster: str | None,
        endpoint: str | None,
        runner_options: tuple[str, ...],
        stall_seconds: float,
        **others: Any,
    ) -> None:
        engine = Engine(
            runner=runner,
            workers=workers,
            cluster=cluster,
            endpoint=endpoint,
            options=[f"--{option.removeprefix('--')}" for option in runner_options],
            stall_seconds=stall_seconds,
        )
        command(*arguments, engine=engine, **others)

    for option in reversed(_ENGINE_OPTIONS):
        with_engine = option(with_engine)
    return with_engine
