"""Score distributions of a report: sampled while the job runs, drawn as inline SVG.

A job meets far more scores than a chart can show, so `ScoreSample` keeps an even sample of bounded size, the same for
the same scores in the same order. `score_chart` draws two histograms over each other: all candidates and those kept.
"""

from __future__ import annotations

import html
import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field

SAMPLE_SIZE = 20_000
_BINS = 24
_WIDTH, _HEIGHT = 480, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 12, 10, 30


@dataclass
class ScoreSample:
    """An even sample of candidate scores: `all` of them, and those of `kept` candidates, each of bounded size."""

    all: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    _seen: list[int] = field(default_factory=lambda: [0, 0])
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, scores: Iterable[float], kept: Iterable[bool]) -> None:
        """Takes in one query's candidates; scores that are not finite are left out."""
        for score, was_kept in zip(scores, kept, strict=True):
            if math.isfinite(score):
                self._take(self.all, 0, float(score))
                if was_kept:
                    self._take(self.kept, 1, float(score))

    def _take(self, sample: list[float], which: int, score: float) -> None:
        # Reservoir sampling: every score seen so far is in the sample with the same probability.
        self._seen[which] += 1
        if len(sample) < SAMPLE_SIZE:
            sample.append(score)
        elif (place := self._random.randrange(self._seen[which])) < SAMPLE_SIZE:
            sample[place] = score


def score_chart(sample: ScoreSample, caption: str) -> str:
    """A figure with the histograms of all candidates and of those kept, as HTML with inline SVG.

    Bars are shares of their own group; the outermost take in what lies beyond the axis. The figure has a
    text alternative with both medians.
    """
    low, high = _range(sample.all)
    groups = [("one", "all candidates", sample.all), ("two", "kept", sample.kept)]
    groups = [group for group in groups if group[2]]
    span = high - low
    shares = [_shares(values, low, high) for _, _, values in groups]
    top = max(max(share) for share in shares)
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = width / _BINS

    parts = []
    for fraction in (0.0, 0.5, 1.0):
        y = _TOP + height * (1 - fraction)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * top * fraction:.0f}%</text>')
    bar = (step - 2) / len(groups)
    for place, ((name, _, _), share) in enumerate(zip(groups, shares, strict=True)):
        for number, value in enumerate(share):
            if value:
                x = _LEFT + number * step + 1 + place * bar
                tall = max(height * value / top, 1)
                y = _TOP + height - tall
                parts.append(f'<rect class="{name}" x="{x:.1f}" y="{y:.1f}" width="{bar:.1f}" height="{tall:.1f}"/>')
    for fraction, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x = _LEFT + width * fraction
        label = _label(low + span * fraction, span)
        if fraction == 0 and min(sample.all) < low:
            label = f"≤ {label}"
        elif fraction == 1 and max(sample.all) > high:
            label = f"≥ {label}"
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 10}" text-anchor="{anchor}">{label}</text>')

    named = [(name, label, _label(sorted(values)[len(values) // 2], span)) for name, label, values in groups]
    medians = "; ".join(f"{label}: median {median}" for _, label, median in named)
    legend = "".join(
        f'<li><span class="swatch {name}"></span>{label}, median {median}</li>' for name, label, median in named
    )
    title = html.escape(caption)
    return (
        f'<figure><figcaption>{title}</figcaption><svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="{title}. {medians}">{"".join(parts)}</svg><ul class="legend">{legend}</ul></figure>'
    )


def _range(values: list[float]) -> tuple[float, float]:
    """Where nearly all scores lie; the few beyond go to the outermost bars, or they would squeeze the rest."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 200], ordered[-1 - len(ordered) // 200]
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _shares(values: list[float], low: float, high: float) -> list[float]:
    counts = [0] * _BINS
    for value in values:
        place = int((value - low) / (high - low) * _BINS)
        counts[min(max(place, 0), _BINS - 1)] += 1
    return [count / len(values) for count in counts]


def _label(value: float, span: float) -> str:
    """A score with as many decimals as tell scores apart on an axis of this span, one at least."""
    decimals = max(1, min(6, 2 - math.floor(math.log10(span))))
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
