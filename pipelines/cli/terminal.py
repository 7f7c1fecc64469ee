"""Progress: what a running job tells the person who launched it.

A job calls a `Progress`; who listens decides how it looks. `TerminalProgress` draws live bars with rate and time left
on a terminal and prints a plain line every few seconds elsewhere (a log file, CI). `Quiet` says nothing; tests and
library callers use it. Progress goes to standard error, so that standard output holds results only.
"""

from __future__ import annotations

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from ...storage.printable import printable

PLAIN_INTERVAL_S = 5.0


class _Rate(ProgressColumn):
    """Amount and rate, such as `12,034 passages  812 passages/s`; bytes in MB."""

    def render(self, task: Task) -> Text:
        unit = str(task.fields.get("unit", ""))
        start = float(task.fields.get("first", 0.0))
        elapsed = task.finished_time if task.finished_time is not None else task.elapsed
        return Text(describe(task.completed, task.completed - start, elapsed or 0.0, unit), style="progress.data.speed")


def describe(amount: float, moved: float, seconds: float, unit: str) -> str:
    """`12,034 passages  812 passages/s`; a unit of `bytes` is shown in MB."""
    if unit == "bytes":
        amount, moved, unit = amount / 1e6, moved / 1e6, "MB"
    rate = moved / seconds if seconds > 0 and moved > 0 else 0.0
    shown = f"{amount:,.0f} {unit}"
    return f"{shown}  {rate:,.0f} {unit}/s" if rate >= 10 else f"{shown}  {rate:,.1f} {unit}/s" if rate else shown


class TerminalProgress:
    """Live bars on a terminal, a line every five seconds where standard error is not one."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal
        self._rich: RichProgress | None = None
        self._task: object = None
        self._name, self._unit = "", ""
        self._total: float | None = None
        self._start, self._amount, self._began, self._printed = 0.0, 0.0, 0.0, 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._rich = RichProgress(
                TextColumn("{task.description:<12}"),
                BarColumn(bar_width=30),
                TaskProgressColumn(),
                _Rate(),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                console=self._console,
            )
            self._rich.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._rich is not None:
            self._rich.stop()

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        self._name, self._unit, self._total, self._start, self._amount = name, unit, total, start, start
        self._began = self._printed = time.monotonic()
        if self._rich is not None:
            self._task = self._rich.add_task(name, total=total, completed=int(start), unit=unit, first=start)
        else:
            self._line("started")

    def at(self, amount: float, *, total: float | None = None) -> None:
        self._amount = amount
        if total is not None:
            self._total = total
        if self._rich is not None:
            self._rich.update(self._task, completed=amount, total=self._total)  # type: ignore[arg-type]
        elif time.monotonic() - self._printed >= PLAIN_INTERVAL_S:
            self._printed = time.monotonic()
            self._line(self._state())

    def done(self) -> None:
        if self._rich is not None:
            end = self._total if self._total is not None else self._amount
            self._rich.update(self._task, completed=end, total=end)  # type: ignore[arg-type]
        else:
            self._amount = self._total or self._amount
            self._line(f"done in {time.monotonic() - self._began:,.1f} s  {self._rate()}")

    def say(self, line: str) -> None:
        self._console.print(printable(line), highlight=False, markup=False, soft_wrap=True)

    def _rate(self) -> str:
        return describe(self._amount, self._amount - self._start, time.monotonic() - self._began, self._unit)

    def _state(self) -> str:
        seconds = time.monotonic() - self._began
        moved = self._amount - self._start
        if not self._total or not moved:
            return self._rate()
        left = (self._total - self._amount) * seconds / moved
        return f"{100 * self._amount / self._total:.0f} %  {self._rate()}  {left:,.0f} s left"

    def _line(self, text: str) -> None:
        print(printable(f"{self._name}: {text}"), file=sys.stderr, flush=True)
