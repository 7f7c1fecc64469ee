"""The fault table: every fault test says what it tried and how it ended, and the run ends with the sum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest

_TRIED: dict[tuple[str, str], int] = defaultdict(int)

Tried = Callable[..., None]


@pytest.fixture
def tried() -> Tried:
    """`tried(fault, outcome, times=1)` adds a line to the fault table."""

    def add(fault: str, outcome: str, times: int = 1) -> None:
        _TRIED[fault, outcome] += times

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _TRIED:
        return
    terminalreporter.section("faults tried")
    for (fault, outcome), times in sorted(_TRIED.items()):
        terminalreporter.write_line(f"{times:>6,}  {fault:<52}  {outcome}")
