"""Summary tables: aligned text that people read and paste, the same on a terminal and in a log file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engines.worker_rates import WorkerRate


def pairs(title: str, rows: Mapping[str, object]) -> str:
    """A title line and one indented `name  value` line for each row; values are formatted by `shown`."""
    width = max((len(name) for name in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {shown(value)}" for name, value in rows.items())])


def grid(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a header line; a column whose values are all numbers is aligned right."""
    body = [list(row) for row in rows]
    cells = [[shown(value) for value in row] for row in body]
    widths = [
        max(len(header[i]), *(len(row[i]) for row in cells)) if cells else len(header[i]) for i in range(len(header))
    ]
    right = [bool(body) and all(isinstance(row[i], int | float) for row in body) for i in range(len(header))]

    def line(texts: Sequence[str]) -> str:
        parts = [t.rjust(w) if r else t.ljust(w) for t, w, r in zip(texts, widths, right, strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *(line(row) for row in cells)])


def shown(value: object) -> str:
    """Numbers with thousands separators, floats with three significant places or so, anything else as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 0.01 else f"{value:.3f}"
    return str(value)


def size(count: float) -> str:
    """Bytes with a unit people read: `12.3 MB` (powers of 1,000)."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable: the last unit returns")


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `5.3 h`, `12 d`."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:,.1f} d"


def worker_table(workers: Sequence[WorkerRate]) -> str:
    """A line for each worker process with what it did and how fast; empty where there were none."""
    if not workers:
        return ""
    rows = [(each.worker, each.amount, round(each.seconds, 1), round(each.per_second, 1)) for each in workers]
    return "\n\n" + grid(("worker", workers[0].unit, "seconds", "a second"), rows)
