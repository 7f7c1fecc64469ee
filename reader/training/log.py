"""The log of a run: a CSV row for every step, and a plot of it as SVG.

A resumed run drops the rows after its checkpoint and writes them again, so that the file reads as if it had never been
cut; only times differ.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from ... import DamageError
from ...storage.files import damage, make_directories, translated, write_atomic

COLUMNS = (
    "step",
    "loss",
    "cross_entropy",
    "distillation",
    "ranking",
    "pointing",
    "gradient_norm",
    "learning_rate",
    "seconds",
    "questions_per_second",
    "em",
    "f1",
    "recall1_before",
    "recall1_after",
)
"""Losses are nats; `seconds` is the step's wall time; the last four follow from an evaluation after the step."""

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 190, 56, 16, 30, 24
_COLOURS = ("#1f6f8b", "#c8553d", "#6a994e", "#7b5ea7", "#b8860b")
_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class Scores:
    """An evaluation, all in [0, 1]: exact match, F1, and how often the first passage is gold, before re-ranking (the
    first stage's first) and after (the first that the decoder read)."""

    em: float
    f1: float
    recall1_before: float
    recall1_after: float

    def to_json(self) -> dict[str, float]:
        """All four by name."""
        return asdict(self)


class TrainLog:
    """The CSV file at `path`, going on after step `after`; rows of later steps are dropped."""

    def __init__(self, path: Path, *, after: int) -> None:
        self._path = path
        make_directories(path.parent)
        kept = [row for row in read_log(path) if int(row["step"]) <= after] if path.exists() else []
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write_atomic(path, text.getvalue().encode())

    def write(self, row: Mapping[str, float | int]) -> None:
        """Appends a row; numbers are written so that they read back exactly."""
        cells = [repr(row[name]) if name in row else "" for name in COLUMNS]
        with (
            translated(self._path, damage(self._path, "free some space")),
            self._path.open("a", encoding="utf-8") as file,
        ):
            file.write(",".join(cells) + "\n")


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log, as text by column. A last line without its end, left by a crash, is left out.

    Raises DamageError for a file that is not such a log.
    """
    with translated(path, damage(path, "remove it to begin a new log")):
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        reader = csv.DictReader(io.StringIO(whole))
        rows = list(reader)
    if tuple(reader.fieldnames or ()) != COLUMNS or any(not (row["step"] or "").isdigit() for row in rows):
        raise DamageError(f"{path} is not a training log; remove it to begin a new one")
    return rows


def plot_log(log: Path, target: Path) -> None:
    """Draws the log's losses and scores over steps as one SVG file."""
    rows = read_log(log)
    panels = [
        ("loss (nats)", ("loss", "cross_entropy", "distillation", "ranking", "pointing")),
        ("dev scores", ("em", "f1", "recall1_before", "recall1_after")),
    ]
    known = {name: _points(rows, name) for _, names in panels for name in names}
    known = {name: points for name, points in known.items() if any(y for _, y in points)}
    drawn = [(title, {name: known[name] for name in names if name in known}) for title, names in panels]
    drawn = [(title, series) for title, series in drawn if series]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT * len(drawn)}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (title, series) in enumerate(drawn):
        parts += [f'<g transform="translate(0 {number * _HEIGHT})">', *_panel(title, series), "</g>"]
    write_atomic(target, "\n".join([*parts, "</svg>", ""]).encode())


def _points(rows: Sequence[Mapping[str, str]], name: str) -> list[tuple[float, float]]:
    """(step, value) where there is one, averaged down to a few hundred."""
    points = [(float(row["step"]), float(row[name])) for row in rows if row[name]]
    size = math.ceil(len(points) / _POINTS) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _panel(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> list[str]:
    last = max(x for points in series.values() for x, _ in points)
    top = max(y for points in series.values() for _, y in points) or 1.0
    wide, tall = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> str:
        return f"{_LEFT + wide * x / last:.1f},{_TOP + tall * (1 - max(y, 0.0) / top):.1f}"

    parts = [f'<text x="{_LEFT}" y="14" font-weight="bold">{escape(title)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = _TOP + tall * (1 - share)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{top * share:.3g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">step {last:,.0f}</text>')
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number]
        line = " ".join(place(x, y) for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}"/>' for x, y in map(_pair, line.split())]
        parts.append(f'<text x="{_LEFT + 130 + 120 * number}" y="14" fill="{colour}">{escape(name)}</text>')
    return parts


def _pair(place: str) -> tuple[str, str]:
    x, _, y = place.partition(",")
    return x, y
