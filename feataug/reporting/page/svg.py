"""Curves, bars and intervals as SVG, in the page's colours.

Every element is formatted by ``Markup.format``, which escapes its arguments: names of classes and arms come from files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from feataug.reporting.page.table import interval_text, number_text

Points = list[tuple[float, float]]

WIDTH = 340
_LABELS = 104
_CHART = Markup('<svg viewBox="0 0 {} {:g}" role="img" aria-label="{}" class="chart">{}</svg>')
_LINE = Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" class="{}">{}</line>')
_TEXT = Markup('<text x="{}" y="{}" class="{}">{}</text>')
_TITLE = Markup("<title>{}</title>")
_CIRCLE = Markup('<circle cx="{}" cy="{}" r="{}" class="{}">{}</circle>')
_POLYLINE = Markup('<polyline points="{}" class="{}"></polyline>')
_RECT = Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}">{}</rect>')


@dataclass(frozen=True)
class Chart:
    """A line chart.

    Attributes:
        title, about: What it shows.
        unit: The unit of the horizontal axis: images or steps.
        series: The points of each series, by its name and the number of its style.
        mark: A value to mark with a line, and its name.
    """

    title: str
    about: str
    unit: str
    series: dict[tuple[str, int], Points] = field(default_factory=dict)
    mark: tuple[float, str] | None = None


def curves(chart: Chart) -> Markup:
    """A line chart."""
    height, left, right, top, bottom = 190, 46, 330, 12, 160
    points = [point for series in chart.series.values() for point in series]
    values = [y for _, y in points] + ([chart.mark[0]] if chart.mark else [])
    # On a linear scale, a first value far above the rest would press all others flat.
    log = min(values) > 0 and max(values) > 20 * sorted(values)[len(values) // 2]
    rows = _decades(values) if log else _ticks(min(values), max(values))
    low, high = rows[0], rows[-1]
    last = max(x for x, _ in points)
    columns = [x for x in _ticks(0, last, 3) if x <= last]

    def across(x: float) -> float:
        return left + (right - left) * x / max(last, 1e-12)

    def up(y: float) -> float:
        share = math.log(y / low) / math.log(high / low) if log else (y - low) / (high - low)
        return bottom - (bottom - top) * share

    parts = []
    for y in rows:
        parts.append(_LINE.format(left, right, _round(up(y)), _round(up(y)), "grid", ""))
        parts.append(_TEXT.format(left - 6, _round(up(y) + 4), "end", f"{y:g}"))
    for x in columns:
        parts.append(_TEXT.format(_round(across(x)), bottom + 15, "middle", f"{x / 1000:g}k" if x >= 10_000 else f"{x:g}"))
    if chart.mark:
        value, name = chart.mark
        parts.append(_LINE.format(left, right, _round(up(value)), _round(up(value)), "mark", ""))
        parts.append(_TEXT.format(right, _round(up(value) - 4), "end", f"{value:g}: {name}"))
    for (name, number), series in chart.series.items():
        line = " ".join(f"{_round(across(x))},{_round(up(y))}" for x, y in series)
        parts.append(_POLYLINE.format(line, f"line s{number}"))
        radius, kind = (2.5, "dot") if len(series) < 6 else (5, "hover")
        for x, y in series[:: max(len(series) // 30, 1)]:
            text = _TITLE.format(f"{name}: {y:.4g} at {x:g} {chart.unit}")
            parts.append(_CIRCLE.format(_round(across(x)), _round(up(y)), radius, f"{kind} s{number}", text))
    parts.append(_TEXT.format(right, bottom + 28, "end", chart.unit + (", log scale" if log else "")))
    ends = "; ".join(f"{name} from {s[0][1]:.4g} to {s[-1][1]:.4g}" for (name, _), s in list(chart.series.items())[:12])
    return _chart(height, f"{chart.title} over {chart.unit}: {ends}", parts)


def bars(rows: Sequence[tuple[str, Sequence[float | None]]], arms: dict[str, int], measure: str) -> Markup:
    """Horizontal bars in percent: a row for each class, a bar for each arm."""
    thick = 7 if len(arms) < 4 else 5
    step = thick * len(arms) + 9
    height = 22 + step * len(rows)
    parts = []
    for x in (0, 25, 50, 75, 100):
        place = _round(_LABELS + 2.2 * x)
        parts.append(_LINE.format(place, place, 16, height - 2, "grid", ""))
        parts.append(_TEXT.format(place, 11, "middle", x))
    for row, (name, values) in enumerate(rows):
        y = 20 + step * row
        parts.append(_label(name, y + (step - 9) / 2 + 4))
        for index, ((arm, number), value) in enumerate(zip(arms.items(), values, strict=True)):
            text = _TITLE.format(f"{name}, {arm}: {number_text(value)} %")
            if value is None:
                parts.append(_TEXT.format(_LABELS + 2, y + thick * (index + 1), "dash", text + "–"))
                continue
            width = max(2.2 * min(value, 100.0), 0.6)  # so that a zero is visible
            parts.append(_RECT.format(_LABELS, y + thick * index, _round(width), thick - 1, f"bar s{number}", text))
    return _chart(height, f"{measure} of {len(rows)} classes in percent; the table below has the numbers", parts)


def intervals(rows: Sequence[tuple[str, Sequence[dict[str, Any]]]], arms: dict[str, int], measure: str) -> Markup:
    """Differences as dots beside a line at zero, with their intervals."""
    known = [v for _, found in rows for g in found for v in (g["mean"], g["low"], g["high"]) if v is not None]
    ticks = _ticks(min([0.0, *known]), max([0.0, *known]), 5)
    low, high = ticks[0], ticks[-1]
    step = 12 * len(arms) + 8
    height = 22 + step * len(rows)

    def across(value: float) -> str:
        return _round(_LABELS + 8 + (WIDTH - _LABELS - 24) * (value - low) / (high - low))

    parts = []
    for x in ticks:
        parts.append(_LINE.format(across(x), across(x), 16, height - 2, "zero" if x == 0 else "grid", ""))
        parts.append(_TEXT.format(across(x), 11, "middle", f"{x:+g}" if x else "0"))
    for row, (name, found) in enumerate(rows):
        parts.append(_label(name, 20 + step * row + 6 * len(arms) + 3))
        for index, ((arm, number), gap) in enumerate(zip(arms.items(), found, strict=True)):
            y = 26 + step * row + 12 * index
            if gap["mean"] is None:
                continue
            difference = f"{number_text(gap['mean'], sign=True)} points{interval_text(gap)}"
            text = _TITLE.format(f"{name}, {arm} minus control: {difference}")
            if gap["low"] is not None:
                parts.append(_LINE.format(across(gap["low"]), across(gap["high"]), y, y, f"line solid s{number}", text))
            parts.append(_CIRCLE.format(across(gap["mean"]), y, 4, f"dot s{number}", text))
    return _chart(height, f"{measure}, arm minus control in points, for {len(rows)} rows; the table below has the numbers", parts)


def _chart(height: float, description: str, parts: Sequence[Markup]) -> Markup:
    return _CHART.format(WIDTH, height, description, Markup("").join(parts))


def _label(name: str, y: float) -> Markup:
    short = name if len(name) <= 15 else name[:14] + "…"
    return _TEXT.format(_LABELS - 6, _round(y), "end", _TITLE.format(name) + short)


def _round(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round numbers that enclose an interval."""
    wide = max(high - low, abs(high) * 1e-3, 1e-9)
    unit = 10 ** math.floor(math.log10(wide / count))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * count >= wide * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{step * i:.12g}") for i in range(first, max(last, first + 1) + 1)]


def _decades(values: Sequence[float]) -> list[float]:
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    every = max((last - first) // 5, 1)
    return [10.0**i for i in range(first, max(last, first + 1) + every, every)]
