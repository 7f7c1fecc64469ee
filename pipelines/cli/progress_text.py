"""Progress in words: amounts, rates and time left, the same in a live bar and in a log."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Final

from ...wording import singular_of

_WINDOW_S: Final = 60.0
_FEWEST: Final = 3


class Meter:
    """One stage's amounts over time, and what they come to in words.

    The rate is that of the last minute, or of the last few amounts where those took longer, so that time spent on
    compiling at the start does not spoil the time left for an hour.
    """

    def __init__(self, name: str, *, total: float | None, unit: str, start: float = 0.0) -> None:
        self.name, self.total, self.unit, self.start, self.amount = name, total, unit, start, start
        self.began = time.monotonic()
        self._recent: deque[tuple[float, float]] = deque([(self.began, start)])

    def at(self, amount: float, total: float | None = None) -> None:
        """The stage has come to `amount`."""
        now = time.monotonic()
        if total is not None:
            self.total = total
        if amount != self.amount:
            self._recent.append((now, amount))
            while len(self._recent) > _FEWEST and self._recent[1][0] < now - _WINDOW_S:
                self._recent.popleft()
        self.amount = amount

    @property
    def elapsed(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.began

    def rate(self) -> float:
        """Amount a second; 0 before anything moved."""
        (since, first) = self._recent[0]
        seconds = time.monotonic() - since
        return max(0.0, (self.amount - first) / seconds) if seconds > 0 else 0.0

    def state(self) -> str:
        """`1,024 of 10,760 passages  812/s  12 s left`: what is known of it."""
        parts = [amount_text(self.amount, self.total, self.unit)]
        rate = self.rate()
        if rate:
            parts.append(rate_text(rate, self.unit))
            if self.total is not None and self.total > self.amount:
                parts.append(time_left((self.total - self.amount) / rate))
        return "  ".join(part for part in parts if part)

    def summary(self) -> str:
        """`10,760 passages in 13 s  812/s`: the finished stage."""
        took = f"in {short_time(self.elapsed)}"
        if not self.unit or not self.amount:
            return f"done {took}"
        moved = self.amount - self.start
        rate = rate_text(moved / self.elapsed, self.unit) if moved > 0 and self.elapsed > 0.1 else ""
        return "  ".join(part for part in (f"{amount_text(self.amount, None, self.unit)} {took}", rate) if part)


def amount_text(amount: float, total: float | None, unit: str) -> str:
    """`1,024 of 10,760 passages`, `1 passage`, `12.3 of 363.6 MB` for a unit of bytes; nothing without a unit."""
    if not unit:
        return ""
    if unit == "bytes":
        amount, total, unit = amount / 1e6, None if total is None else total / 1e6, "MB"
    digits = 1 if unit == "MB" else 0
    most = amount if total is None else total
    noun = singular_of(unit) if f"{most:,.{digits}f}" == "1" else unit
    whole = "" if total is None else f" of {total:,.{digits}f}"
    return f"{amount:,.{digits}f}{whole} {noun}"


def rate_text(rate: float, unit: str) -> str:
    """`812/s`, `3.4/s`, `56.1 MB/s`, and below one a second the time each takes: `2.5 s each`."""
    if not unit or rate <= 0:
        return ""
    if unit in ("bytes", "MB"):
        return f"{rate / 1e6 if unit == 'bytes' else rate:,.1f} MB/s"
    if rate >= 1:
        return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:,.1f}/s"
    return f"{short_time(1 / rate)} each"


def time_left(seconds: float) -> str:
    """`45 s left`, `3 min left`, `1 h 20 min left`, `2 d 3 h left`."""
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s left"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min left"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min left" if minutes % 60 else f"{minutes // 60} h left"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h left" if hours % 24 else f"{hours // 24} d left"


def short_time(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `1 h 20 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
