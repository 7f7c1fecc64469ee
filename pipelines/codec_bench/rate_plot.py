"""The plot of the benchmark of codecs as SVG: what answers are worth, or the error, against bytes a token."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .figures import CodecBench, CodecFigures

_WIDE, _TALL = 680, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 24, 44, 62
_COLOURS = ("#1f6f5c", "#3b5bdb", "#b3261e", "#8a5a00", "#6b3fa0")
_UNCOMPRESSED = "#555"
_LETTER, _LINE = 6.2, 14  # pixels that a letter and a line of a label take


@dataclass(frozen=True)
class _Point:
    """A codec in the plot: bytes, value, and the ends of its whisker."""

    codec: str
    bytes: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class _Axis:
    """The vertical axis: its title, marks (value, label), and a value's height as a share of the plot's."""

    title: str
    ticks: Sequence[tuple[float, str]]
    share: Callable[[float], float]

    def down(self, value: float) -> float:
        """Pixels from the image's top."""
        return _TOP + (_TALL - _TOP - _BOTTOM) * (1 - self.share(value))


def rate_plot(bench: CodecBench) -> str:
    """An SVG image: exact match in percent where questions had gold answers, else the relative MSE; bytes are log.

    Whiskers are 95 % intervals of the paired difference to bfloat16, whose exact match is the dashed line.
    """
    scored = bench.scored > 0
    shown = bench.codecs if scored else bench.codecs[1:] or bench.codecs
    points = [_exact_match(each, bench.codecs[0]) if scored else _error(each) for each in shown]
    axis = _percent_axis(points) if scored else _error_axis(points)
    low, high = min(point.bytes for point in points) / 1.5, max(point.bytes for point in points) * 1.5

    def across(size: float) -> float:
        return _LEFT + (_WIDE - _LEFT - _RIGHT) * math.log(size / low) / math.log(high / low)

    title = f"{axis.title} against bytes a token"
    over = f"{bench.scored:,} questions" if scored else f"{bench.held_out_tokens:,} tokens held out"
    right, foot = _WIDE - _RIGHT, _TALL - _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_TALL}" width="{_WIDE}" height="{_TALL}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{title}">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-weight="bold">{title}</text>',
        f'<text x="{right}" y="22" text-anchor="end" fill="#555">{over}</text>',
    ]
    for value, label in axis.ticks:
        y = axis.down(value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for size in _powers_of_two(low, high):
        parts.append(f'<path d="M{across(size):.1f} {_TOP}V{foot}" stroke="#eee"/>')
        parts.append(f'<text x="{across(size):.1f}" y="{foot + 18}" text-anchor="middle">{size:,}</text>')
    note = "whiskers: 95 % intervals of the paired difference to bfloat16" if scored else "log scales"
    parts.append(f'<text x="{_LEFT}" y="{_TALL - 12}" fill="#555">{note}</text>')
    parts.append(f'<text x="{right}" y="{_TALL - 12}" text-anchor="end">bytes a token</text>')
    if scored:
        y = axis.down(points[0].value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="{_UNCOMPRESSED}" stroke-dasharray="5 4"/>')
    return "\n".join([*parts, *_marks(points, across, axis), "</svg>", ""])


def _marks(points: Sequence[_Point], across: Callable[[float], float], axis: _Axis) -> Iterator[str]:
    """Lines that join the codecs of one name, whiskers and points, and labels over all of them."""
    families: dict[str, list[_Point]] = {}
    for point in points:
        families.setdefault(point.codec.partition(":")[0], []).append(point)
    names = [name for name in families if name != "bfloat16"]
    colours = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    colours["bfloat16"] = _UNCOMPRESSED
    for name, members in families.items():
        line = [
            f"{across(point.bytes):.1f},{axis.down(point.value):.1f}"
            for point in sorted(members, key=lambda point: point.bytes)
        ]
        if len(line) > 1:
            yield f'<polyline points="{" ".join(line)}" fill="none" stroke="{colours[name]}"/>'
    taken: list[_Box] = []
    for name, members in families.items():
        for point in members:
            x, y, top, bottom = across(point.bytes), *map(axis.down, (point.value, point.high, point.low))
            if point.high > point.low:
                yield f'<path d="M{x:.1f} {bottom:.1f}V{top:.1f}" stroke="{colours[name]}" stroke-width="1.5"/>'
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colours[name]}"/>'
            taken.append(_Box(x - 4, min(top, y - 4), x + 4, max(bottom, y + 4)))
    for number, point in enumerate(point for members in families.values() for point in members):
        half = len(point.codec) * _LETTER / 2
        middle = min(max(across(point.bytes), _LEFT + half), _WIDE - _RIGHT - half)
        label = _label_box(middle, half, taken[number], taken)
        taken.append(label)
        yield (
            f'<text x="{middle:.1f}" y="{label.bottom - 3:.1f}" text-anchor="middle" stroke="white" stroke-width="3" '
            f'paint-order="stroke" fill="{colours[point.codec.partition(":")[0]]}">{html.escape(point.codec)}</text>'
        )


@dataclass(frozen=True)
class _Box:
    """What a point with its whisker, or a label, covers, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def _label_box(middle: float, half: float, marked: _Box, taken: Sequence[_Box]) -> _Box:
    """Where a label is put: above what it marks, below it, or further up, wherever it covers nothing first."""
    tops = [marked.top - _LINE - 2, marked.bottom + 2]
    tops += [marked.top - _LINE - 2 - step for step in range(7, int(marked.top), 7)]
    boxes = [_Box(middle - half, top, middle + half, top + _LINE) for top in tops]
    inside = [box for box in boxes if box.top > _TOP - _LINE and box.bottom < _TALL - _BOTTOM]
    return next((box for box in inside if not any(map(box.meets, taken))), boxes[0])


def _exact_match(figures: CodecFigures, whole: CodecFigures) -> _Point:
    em, best = figures.em, whole.em
    assert em is not None, "questions had gold answers"
    assert best is not None, "questions had gold answers"
    low, high = best.value + em.low, best.value + em.high
    return _Point(figures.codec, figures.code_bytes, 100 * em.value, 100 * low, 100 * high)


def _error(figures: CodecFigures) -> _Point:
    value = max(figures.relative_mse, 1e-9)
    return _Point(figures.codec, figures.code_bytes, value, value, value)


def _percent_axis(points: Sequence[_Point]) -> _Axis:
    low, high = min(point.low for point in points), max(point.high for point in points)
    step = next(step for step in (0.5, 1, 2, 5, 10, 20) if (high - low) / step <= 8)
    first, last = math.floor(low / step - 0.5), math.ceil(high / step + 1)
    ticks = [(number * step, f"{number * step:g}") for number in range(max(first, 0), min(last, round(100 / step)) + 1)]
    bottom, top = ticks[0][0], ticks[-1][0]
    return _Axis("Exact match in percent", ticks, lambda value: (value - bottom) / (top - bottom))


def _error_axis(points: Sequence[_Point]) -> _Axis:
    low = math.floor(math.log10(min(point.value for point in points)))
    high = max(math.ceil(math.log10(max(point.value for point in points)) + 0.2), low + 1)
    ticks = [(10.0**power, f"{10.0**power:.{max(0, -power)}f}") for power in range(low, high + 1)]
    return _Axis("Relative MSE", ticks, lambda value: (math.log10(value) - low) / (high - low))


def _powers_of_two(low: float, high: float) -> list[int]:
    return [1 << power for power in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
