"""The loop of a run: steps, log, evaluations with early stopping, checkpoints, and resuming from the newest.

What is decided by evaluations (the best so far, how many since) travels in the checkpoint's notes, and the weights of
the best evaluation lie beside it, written first; so a run killed anywhere resumes as if nothing had happened.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import UsageError
from .checkpoints import Checkpoints, load_weights, save_weights
from .log import Scores, TrainLog
from .losses import Questions
from .settings import TrainConfig
from .step import TrainStep

LOG, PLOT, CHECKPOINTS, BEST = "log.csv", "log.svg", "checkpoints", "best"

Batches = Callable[[int], AbstractContextManager[Iterator[Questions]]]
"""Opens the stream of batches from a step (counted from 0) on."""


@dataclass(frozen=True, kw_only=True)
class EvaluationHistory:
    """Where a run stands with its evaluations.

    Attributes:
        best_step, best: the step of the best exact match and its scores; None before the first evaluation.
        since: evaluations after the best one.
        stopped: early stopping has ended the run.
    """

    best_step: int | None = None
    best: Mapping[str, float] | None = None
    since: int = 0
    stopped: bool = False

    def after(self, step: int, scores: Scores, patience: int) -> EvaluationHistory:
        """The history after an evaluation at `step`; the first of equals stays the best."""
        if self.best is None or scores.em > self.best["em"]:
            return EvaluationHistory(best_step=step, best=scores.to_json())
        later = replace(self, since=self.since + 1)
        return replace(later, stopped=later.spent(patience))

    def spent(self, patience: int) -> bool:
        """Whether `patience` evaluations (0: any number) have passed without a better one."""
        return 0 < patience <= self.since


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a run ended with: trained `weights` by dotted name (the best evaluation's, else the last), `steps` taken,
    the step it began at, and its history."""

    weights: Mapping[str, npt.NDArray[Any]]
    steps: int
    began: int
    history: EvaluationHistory


def run_steps(
    step: TrainStep,
    batches: Batches,
    *,
    config: TrainConfig,
    settings: Mapping[str, Any],
    evaluate: Callable[[Mapping[str, Any]], Scores] | None,
    on_step: Callable[[int, str], None],
) -> Finished:
    """Takes the steps of a run that are still to be taken.

    Args:
        step: takes them.
        batches: opens the stream of batches.
        config: of the run.
        settings: what the run's history depends on, for checkpoints.
        evaluate: scores weights, None for a run without evaluation.
        on_step: called after each step with its number and a line that sums it up.

    Raises MismatchError or DamageError for checkpoints that do not fit or are damaged, UsageError where the loss is no
    longer a number, StorageError where nothing can be written.
    """
    run = Path(config.run)
    checkpoints = Checkpoints(run / CHECKPOINTS, settings, keep=config.checkpoints.keep)
    state = step.start()
    history, done = EvaluationHistory(), 0
    patience = config.evaluation.patience if config.evaluation is not None else 0
    found = checkpoints.newest(state)
    if found is not None:
        state, history = step.place(found.state), EvaluationHistory(**found.notes)
        history = replace(history, stopped=history.spent(patience))  # patience may have been changed since
        done = int(state.step)
    began = done
    log = TrainLog(run / LOG, after=done)
    rate = config.schedule()
    questions = config.optimiser.batch * config.optimiser.accumulate
    with batches(done) as stream:
        while done < config.steps and not history.stopped:
            start = time.perf_counter()
            state, losses = step(state, next(stream))
            values = {name: float(value) for name, value in losses._asdict().items()}
            done += 1
            if not math.isfinite(values["loss"]) or not math.isfinite(values["gradient_norm"]):
                raise UsageError(
                    f"the loss of step {done} is {values['loss']}, its gradient's norm {values['gradient_norm']}: "
                    "training has diverged; lower [optimiser] learning_rate and begin a new run"
                )
            seconds = time.perf_counter() - start
            row: dict[str, float | int] = {
                "step": done,
                **values,
                "learning_rate": float(rate(done - 1)),
                "seconds": round(seconds, 4),
                "questions_per_second": round(questions / seconds, 2),
            }
            every = config.evaluation.every if config.evaluation is not None else config.steps
            if evaluate is not None and (done % every == 0 or done == config.steps):
                scores = evaluate(state.weights)
                history = history.after(done, scores, patience)
                if history.best_step == done:
                    save_weights(_best(run, done), state.weights)
                row |= scores.to_json()
            log.write(row)
            if done % config.checkpoints.every == 0 or done == config.steps or history.stopped:
                checkpoints.save(state, asdict(history))
                _forget(run, checkpoints)
            on_step(done, _format_step(row))
    if history.best_step is None:
        weights: Mapping[str, npt.NDArray[Any]] = {name: np.asarray(value) for name, value in state.weights.items()}
    else:
        weights = load_weights(_best(run, history.best_step), state.weights)
    return Finished(weights=weights, steps=done, began=began, history=history)


def _format_step(row: Mapping[str, float | int]) -> str:
    words = f"step {row['step']:,}: loss {row['loss']:.3f}"
    if "em" in row:
        words += (
            f", EM {row['em']:.3f}, F1 {row['f1']:.3f}, "
            f"recall@1 {row['recall1_before']:.3f} -> {row['recall1_after']:.3f}"
        )
    return words


def _best(run: Path, step: int) -> Path:
    return run / BEST / f"step-{step:08d}.safetensors"


def _forget(run: Path, checkpoints: Checkpoints) -> None:
    """Removes best weights that no checkpoint names any more."""
    named = {_best(run, notes["best_step"]) for notes in checkpoints.notes() if notes.get("best_step") is not None}
    for path in (run / BEST).glob("*.safetensors"):
        if path not in named:
            path.unlink()
