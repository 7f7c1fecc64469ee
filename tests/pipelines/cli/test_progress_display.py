"""Progress in words, in a log's lines and in live bars."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from glimmer.pipelines.cli import progress_bars, progress_lines
from glimmer.pipelines.cli.progress_bars import ProgressBars
from glimmer.pipelines.cli.progress_lines import ProgressLines
from glimmer.pipelines.cli.progress_text import Meter, amount_text, rate_text, time_left
from glimmer.progress import activity, busy
from glimmer.wording import counted, plural_of, singular_of


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s left"),
        (44.1, "45 s left"),
        (89, "89 s left"),
        (170, "3 min left"),
        (4800, "1 h 20 min left"),
        (7200, "2 h left"),
        (86400 * 2 + 3 * 3600, "2 d 3 h left"),
    ],
)
def test_time_left_reads_as_people_say_it(seconds: float, words: str) -> None:
    assert time_left(seconds) == words


@pytest.mark.parametrize(
    ("rate", "unit", "words"),
    [
        (812.4, "passages", "812/s"),
        (3.42, "queries", "3.4/s"),
        (0.4, "queries", "2.5 s each"),
        (0.005, "steps", "3 min 20 s each"),
        (56_100_000, "bytes", "56.1 MB/s"),
    ],
)
def test_what_is_slower_than_one_a_second_is_told_in_seconds_each(rate: float, unit: str, words: str) -> None:
    assert rate_text(rate, unit) == words


@pytest.mark.parametrize(
    ("amount", "total", "unit", "words"),
    [
        (1024, 10760, "passages", "1,024 of 10,760 passages"),
        (1, None, "passages", "1 passage"),
        (0, 1, "queries", "0 of 1 query"),
        (12_300_000, 363_600_000, "bytes", "12.3 of 363.6 MB"),
        (3, None, "", ""),
    ],
)
def test_amounts_say_how_many_of_how_many(amount: float, total: float | None, unit: str, words: str) -> None:
    assert amount_text(amount, total, unit) == words


@pytest.mark.parametrize(
    "noun", ["passage", "query", "shape", "branch", "index", "key", "damaged place", "catalog row"]
)
def test_a_count_and_its_noun_agree(noun: str) -> None:
    assert singular_of(plural_of(noun)) == noun
    assert counted(1, noun) == f"1 {noun}"
    assert counted(2500, noun) == f"2,500 {plural_of(noun)}"
    assert counted(0, noun).endswith(plural_of(noun))


def test_a_rate_follows_the_last_minute_and_not_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter = Meter("encode", total=100_000, unit="passages")
    now[0] = 300.0  # compiling
    for second in range(1, 200):
        now[0] = 300.0 + second
        meter.at(second * 10)
    assert meter.rate() == pytest.approx(10, rel=0.05)
    assert "left" in meter.state()


def test_activities_nest_and_end() -> None:
    with busy("loading model m"):
        with busy("compiling (3 of 13)"):
            assert activity() == "compiling (3 of 13)"
        assert activity() == "loading model m"
    assert activity() == ""


def test_a_log_has_one_line_for_a_short_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLines() as progress:
        progress.stage("plan", total=None, unit="passages")
        progress.at(1)
        progress.done()
    assert re.fullmatch(r"\d\d:\d\d:\d\d plan: 1 passage in 0\.\d s\n", capsys.readouterr().err)


def test_a_log_of_a_long_stage_has_the_state_at_growing_intervals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_lines, "FIRST_LINE_S", 0.1)
    monkeypatch.setattr(progress_lines, "_TICK_S", 0.01)
    with ProgressLines() as progress:
        progress.stage("encode", total=1000, unit="passages")
        with busy("compiling (1 of 2)"):
            time.sleep(0.15)  # nothing is reported, and a line appears all the same
        for amount in range(50):
            progress.at(amount)
            time.sleep(0.02)
        progress.done()
    lines = capsys.readouterr().err.splitlines()
    assert "encode: 0 of 1,000 passages, compiling (1 of 2)" in lines[0]
    assert any("of 1,000 passages" in line and "/s" in line and "left" in line for line in lines[1:])
    assert "encode: 1,000 passages in" in lines[-1]
    assert 3 <= len(lines) <= 6, "intervals grow: 0.1, 0.16, 0.26, 0.41 s …"


def test_bars_show_amount_time_left_and_what_holds_the_job_up(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(
        progress_bars, "Console", lambda stderr: Console(file=shown, force_terminal=True, width=100, stderr=False)
    )
    with ProgressBars() as progress:
        progress.stage("encode", total=1000, unit="passages")
        with busy("compiling (3 of 13)"):
            time.sleep(0.25)
        progress.at(100)
        time.sleep(0.25)
        progress.done()
        progress.stage("check", total=None, unit="")
        progress.done()
    text = shown.getvalue()
    for words in ("compiling (3 of 13)", "100 of 1,000 passages", "left", "1,000 passages in 0", "done in 0.0 s"):
        assert words in text
