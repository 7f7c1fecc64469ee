"""How right the more probable answers are: the risk-coverage curve of a job (El-Yaniv & Wiener, JMLR 2010).

Who needs fewer but better answers leaves out those of low probability (`--no-answer-below`). The curve says what that
gives for the questions with gold answers: the share that is still answered, and exact match among those.
"""

from __future__ import annotations

import html
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ...reader.formats.kilt import gold_answers, parse_json_object, parse_outputs, read_lines
from ...reader.formats.metrics import exact_match
from ...reader.formats.queries import QueryFile

SHARES: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_FEWEST: Final = 20  # questions that a point of the curve stands for
_WIDTH, _HEIGHT = 480, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Answers of at least the probability `threshold`: the share `coverage` of all questions, `answered` of them.

    `exact_match` is among those answered, `margin` half the width of its 95 % interval (normal approximation).
    """

    threshold: float
    coverage: float
    answered: int
    exact_match: float
    margin: float


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """The curve of `questions` with gold answers: `points` from all answers to the most probable ones."""

    questions: int
    points: tuple[Point, ...]

    def table(self) -> tuple[Point, ...]:
        """For each of `SHARES` the point of the largest coverage that does not exceed it, each once."""
        found = (next((point for point in self.points if point.coverage <= share + 1e-9), None) for share in SHARES)
        return tuple(dict.fromkeys(point for point in found if point is not None))


def risk_coverage(queries: QueryFile, predictions: Path) -> RiskCoverage | None:
    """The curve of a prediction file, which has the queries' order.

    None where no question has gold answers, or too few of them an answer with a probability. An empty answer is none.
    """
    questions, probabilities, right = 0, array("d"), bytearray()
    for query, (_, line) in zip(queries, read_lines(predictions), strict=True):
        gold = gold_answers(query.outputs or ())
        if not gold:
            continue
        questions += 1
        record = parse_json_object(line)
        answer = parse_outputs(record["output"])[0].answer or ""
        if answer and isinstance(probability := record.get("probability"), int | float):
            probabilities.append(probability)
            right.append(bool(exact_match(answer, gold)))
    if len(right) < _FEWEST:
        return None
    points = _points(np.frombuffer(probabilities), np.frombuffer(right, np.uint8), questions)
    return RiskCoverage(questions=questions, points=tuple(points))


def _points(probabilities: npt.NDArray[np.float64], right: npt.NDArray[np.uint8], questions: int) -> Iterator[Point]:
    """A point for each probability that occurs, lowest first; questions of one probability stay together."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    hits = np.cumsum(right[order], dtype=np.int64)
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    for end in ends[ends >= _FEWEST - 1][::-1].tolist():
        count = end + 1
        rate = int(hits[end]) / count
        yield Point(
            threshold=float(ranked[end]),
            coverage=count / questions,
            answered=count,
            exact_match=rate,
            margin=1.96 * math.sqrt(rate * (1 - rate) / count),
        )


def risk_coverage_section(curve: RiskCoverage) -> str:
    """The curve and its table as a section of the report, in HTML with inline SVG."""
    rows = "".join(
        f'<tr><th scope="row" class="number">{point.threshold:.3g}</th>'
        f'<td class="number">{100 * point.coverage:.0f}</td><td class="number">{point.answered:,}</td>'
        f'<td class="number">{100 * point.exact_match:.1f} ± {100 * point.margin:.1f}</td></tr>'
        for point in curve.table()
    )
    head = "".join(
        f'<th scope="col" class="number">{name}</th>'
        for name in ("at least", "answered, %", "questions", "exact match, %")
    )
    return (
        '<section id="coverage"><h2>Fewer answers, more of them right</h2><div class="columns">'
        f"{_chart(curve.points)}"
        '<div class="scroll" tabindex="0" role="region" aria-label="Exact match by probability"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></div>"
        f'<p class="note">Of {curve.questions:,} questions with gold answers, those whose answer has at least the '
        "probability in the first column; ± is a 95 % interval. <code>--no-answer-below</code> leaves the others empty."
        "</p></section>"
    )


def _chart(points: Sequence[Point]) -> str:
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    top = min(1.0, math.ceil(10 * max(point.exact_match for point in points)) / 10) or 0.1

    def x(share: float) -> float:
        return _LEFT + width * share

    def y(rate: float) -> float:
        return _TOP + height * (1 - rate / top)

    parts = []
    for fraction in (0.0, 0.5, 1.0):
        at = y(top * fraction)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{100 * top * fraction:.0f}%</text>')
        anchor = ("start", "middle", "end")[int(2 * fraction)]
        parts.append(
            f'<text x="{x(fraction):.1f}" y="{_HEIGHT - 24}" text-anchor="{anchor}">{100 * fraction:.0f}%</text>'
        )
    parts.append(f'<text x="{x(0.5):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">share of questions answered</text>')
    step = max(1, len(points) // 200)
    drawn = [*points[:-1:step], points[-1]]
    line = " ".join(f"{x(point.coverage):.1f},{y(point.exact_match):.1f}" for point in drawn)
    parts.append(f'<polyline class="curve" points="{line}"/>')
    whole, best = points[0], points[-1]
    caption = "Exact match among the answers given, from the most probable ones to all"
    spoken = html.escape(
        f"{caption}. {100 * whole.exact_match:.0f} % at {100 * whole.coverage:.0f} % answered, "
        f"{100 * best.exact_match:.0f} % at {100 * best.coverage:.0f} %"
    )
    return (
        f'<figure><figcaption>{caption}</figcaption><svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{spoken}">{"".join(parts)}</svg></figure>'
    )
