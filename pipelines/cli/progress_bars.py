"""Progress on a terminal: a live bar for each stage, with what is done, the rate and the time left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from ...progress import activity
from ...storage.printable import printable
from .progress_text import Meter


class _MeterColumn(ProgressColumn):
    """Amount, rate and time left of a running stage; amount and time taken of a finished one."""

    def render(self, task: Task) -> Text:
        meter: Meter = task.fields["meter"]
        return Text(task.fields["summary"] or meter.state(), style="progress.data.speed")


class _Bars(RichProgress):
    """Bars, and below them what the process is busy with."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        doing = activity()
        if doing:
            yield Text(f"  {printable(doing)} …", style="dim")


class ProgressBars:
    """Progress callback that draws live bars on standard error, which is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = _Bars(
            TextColumn("{task.description:<16}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            _MeterColumn(table_column=Column(no_wrap=True)),
            console=self._console,
        )
        self._task: TaskID | None = None
        self._meter: Meter | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def stage(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        self._meter = Meter(name, total=total, unit=unit, start=start)
        fields: dict[str, Any] = {"meter": self._meter, "summary": ""}
        self._task = self._bars.add_task(name, total=total, completed=int(start), **fields)

    def at(self, amount: float, *, total: float | None = None) -> None:
        if self._meter is not None and self._task is not None:
            self._meter.at(amount, total)
            self._bars.update(self._task, completed=amount, total=self._meter.total)

    def done(self) -> None:
        meter, task = self._meter, self._task
        if meter is not None and task is not None:
            meter.at(meter.amount if meter.total is None else meter.total)
            # A total of 0 would be drawn as a bar that still waits.
            self._bars.update(task, completed=meter.amount or 1, total=meter.amount or 1, summary=meter.summary())
        self._meter = self._task = None

    def say(self, line: str) -> None:
        self._console.print(printable(line), highlight=False, markup=False, soft_wrap=True)
