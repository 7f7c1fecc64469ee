"""What a training job did, for its caller, for `--json`, and for the record beside the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...reader.training.examples import TaskCounts


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training job did.

    Attributes:
        output: the model directory written.
        log: the CSV log; a plot lies beside it.
        steps: steps taken in all, `resumed` of them by earlier runs.
        tasks: what became of each task's questions.
        shares: of each task, the share of draws, in [0, 1].
        best_step, best: the step whose weights were written and its dev scores; None without evaluation.
        stopped_early: `patience` ended it.
        nothing_to_do: the same run had ended before.
    """

    output: Path
    log: Path
    steps: int
    resumed: int
    tasks: Mapping[str, TaskCounts]
    shares: Mapping[str, float]
    best_step: int | None
    best: Mapping[str, float] | None
    stopped_early: bool
    nothing_to_do: bool = False

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        return {
            "output": str(self.output),
            "log": str(self.log),
            "steps": self.steps,
            "resumed": self.resumed,
            "tasks": {name: counts.to_json() for name, counts in self.tasks.items()},
            "shares": dict(self.shares),
            "best_step": self.best_step,
            "best": None if self.best is None else dict(self.best),
            "stopped_early": self.stopped_early,
            "nothing_to_do": self.nothing_to_do,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], *, output: Path, log: Path) -> TrainResult:
        """The result that a run which has ended before recorded with its model."""
        return cls(
            output=output,
            log=log,
            steps=record["steps"],
            resumed=record["steps"],
            tasks={name: TaskCounts(**counts) for name, counts in record["tasks"].items()},
            shares=record["shares"],
            best_step=record["best_step"],
            best=record["best"],
            stopped_early=record["stopped_early"],
            nothing_to_do=True,
        )
