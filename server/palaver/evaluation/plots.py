"""Plots as SVG, made to stand in a page: their colours are the page's CSS variables."""

import html
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, ROW, LABEL = 640, 26, 230
LABEL_CHARACTERS = 34
BINS = 20


class Bar(NamedTuple):
    """A row of a bar chart: ``value`` with the limits of its interval. ``kind``: a CSS class."""

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    kind: str = "first"


def plot_bars(bars: Sequence[Bar], *, lowest: float = 0.0, highest: float = 1.0) -> str:
    """Return horizontal bars from 0 with their intervals, on an axis that has all of them."""
    ends = [lowest, highest, *(e for b in bars for e in (b.value, b.low, b.high) if e is not None)]
    low, high = min(ends), max(ends)
    room = WIDTH - LABEL - 150

    def x(value: float) -> float:
        return LABEL + (value - low) / (high - low or 1.0) * room

    parts = [_line(x(0.0), 0, x(0.0), ROW * len(bars), "axis")]
    for row, bar in enumerate(bars):
        middle = ROW * row + ROW / 2
        left, right = sorted((x(0.0), x(bar.value)))
        parts += [
            _text(LABEL - 8, middle, _shorten(bar.label), "label"),
            _rectangle(left, middle - 7, max(right - left, 0.5), 14, bar.kind),
            _text(WIDTH - 142, middle, bar.text, "value"),
        ]
        if bar.low is not None and bar.high is not None:
            parts.append(_line(x(bar.low), middle, x(bar.high), middle, "interval"))
            parts += [
                _line(x(end), middle - 4, x(end), middle + 4, "interval")
                for end in (bar.low, bar.high)
            ]
    return _svg(WIDTH, ROW * len(bars), parts)


def plot_histogram(series: Sequence[Sequence[float]], unit: str) -> str:
    """Return the distribution of one or two series over common bins; the last bin has the rest
    above the 99th percentile."""
    every = sorted(value for values in series for value in values)
    if not every:
        return ""
    low, high = min(0.0, every[0]), every[int(0.99 * (len(every) - 1))] or 1.0
    step = (high - low) / BINS
    counts = [[0] * BINS for _ in series]
    for row, values in zip(counts, series, strict=True):
        for value in values:
            row[min(int((value - low) / step), BINS - 1)] += 1
    most = max(max(row) for row in counts) or 1
    width, height = 300, 130
    slot = width / BINS
    own = slot / len(series)
    parts = []
    for number, row in enumerate(counts):
        kind = ("first", "second")[number]
        for place, count in enumerate(row):
            tall = count / most * height
            title = f"{low + place * step:.3g} to {low + (place + 1) * step:.3g}{unit}: {count}"
            left = place * slot + number * own
            parts.append(_rectangle(left, height - tall, own - 1, tall, kind, title))
    parts += [
        _line(0, height, width, height, "axis"),
        _text(0, height + 12, f"{low:.3g}{unit}", "tick"),
        _text(width, height + 12, f"{high:.3g}{unit}", "label"),
    ]
    return _svg(width, height + 22, parts)


class Bin(NamedTuple):
    """A bin of a reliability diagram: means of probability and of success over ``size`` cases."""

    probability: float
    success: float
    size: int


def plot_reliability(bins: Sequence[Bin]) -> str:
    """Return how often a choice was right, by the probability that it was given. The diagonal is
    perfect; the area of a dot is the number of cases."""
    if not bins:
        return ""
    size, edge = 260, 30
    most = max(found.size for found in bins)

    def place(found: Bin) -> tuple[float, float]:
        return edge + found.probability * size, 8 + (1 - found.success) * size

    parts = [
        _line(edge, 8 + size, edge + size, 8, "diagonal"),
        _line(edge, 8 + size, edge + size, 8 + size, "axis"),
        _line(edge, 8, edge, 8 + size, "axis"),
        *(_text(edge - 4, 8 + (1 - tick) * size, f"{tick:g}", "label") for tick in (0, 0.5, 1)),
        *(_text(edge + tick * size, 20 + size, f"{tick:g}", "middle") for tick in (0.5, 1)),
        _text(edge + size / 2, 36 + size, "probability of the choice", "middle"),
    ]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, bins))
    parts.append(f'<polyline class="curve" points="{points}"/>')
    for found in bins:
        x, y = place(found)
        radius = 3 + 7 * (found.size / most) ** 0.5
        title = f"{found.size} choices: {found.success:.0%} right at {found.probability:.0%}"
        parts.append(
            f'<circle class="bar first" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
            f"<title>{title}</title></circle>"
        )
    return _svg(size + edge + 16, size + 46, parts)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img">{body}</svg>'


def _shorten(label: str) -> str:
    return label if len(label) <= LABEL_CHARACTERS else f"{label[: LABEL_CHARACTERS - 1]}…"


def _rectangle(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="bar {kind}" {size} rx="1"><title>{html.escape(title)}</title></rect>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" dy="0.35em">{html.escape(text)}</text>'
