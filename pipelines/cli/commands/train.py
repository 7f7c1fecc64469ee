"""`glimmer train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ....wording import counted
from ..printing import echo, print_json, shown_path
from ..tables import grid, pairs
from ..terminal import TerminalProgress
from .options import json_option

if TYPE_CHECKING:
    from ...training.result import TrainResult


@click.command()
@click.option(
    "--config", "config", required=True, type=click.Path(dir_okay=False), help="TOML file with the run's settings."
)
@json_option
def train(config: str, as_json: bool) -> None:
    """Train a reader on KILT-format tasks, from a memory.

    The file names the model to start from, the memory, the tasks and a run directory for checkpoints, log and plot.
    Running the same command again resumes from the last checkpoint. docs/train.md lists every setting.

    \b
    Example:
      glimmer train --config reader.toml
    with reader.toml:
      model  = "t5-large-glimmer"
      memory = "wiki.memory"
      run    = "runs/nq"
      output = "nq-reader"
      steps  = 10000
      [[tasks]]
      name = "nq"
      file = "nq-train-kilt.jsonl"
      [evaluation]
      file = "nq-dev-kilt.jsonl"
    """
    from ....reader.training.settings import TrainConfig
    from ...train import train as train_job

    with TerminalProgress() as progress:
        result = train_job(config=TrainConfig.from_toml(Path(config)), progress=progress)
    print_json(result.to_json()) if as_json else echo(_text(result))


def _text(result: TrainResult) -> str:
    if result.nothing_to_do:
        return (
            f"{shown_path(result.output)}: nothing to do, this run has taken its {counted(result.steps, 'step')} before"
        )
    facts: dict[str, object] = {
        "steps": f"{result.steps:,}"
        + (f" ({result.resumed:,} were taken before)" if result.resumed else "")
        + (", stopped early" if result.stopped_early else ""),
        "log": result.log,
    }
    if result.best is not None and result.best_step is not None:
        best = result.best
        facts["best"] = f"step {result.best_step:,}: EM {best['em']:.3f}, F1 {best['f1']:.3f}"
        facts["recall@1"] = f"{best['recall1_before']:.3f} -> {best['recall1_after']:.3f} after re-ranking"
    rows = [
        (name, f"{result.shares[name]:.3f}", f"{count.questions:,}", f"{count.used:,}", f"{count.irrelevant:,}")
        for name, count in result.tasks.items()
    ]
    table = grid(("task", "share", "questions", "trained on", "irrelevant"), rows)
    return "\n".join([pairs(shown_path(result.output), facts), "", table])
