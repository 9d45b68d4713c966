"""Curves, bars and intervals as SVG, in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from feataug.reporting.page.html import Html, shown, tag
from feataug.reporting.page.loss_curves import Chart

WIDTH = 340
_LABELS = 104


def swatch(number: int) -> Html:
    """A series' mark in a legend: colour and dash."""
    line = tag("line", x1=1, y1=6, x2=25, y2=6, class_=f"line s{number}")
    return tag("svg", line, viewBox="0 0 26 12", width=26, height=12, aria_hidden="true")


def legend(names: dict[str, int]) -> Html:
    """Names of series beside their marks."""
    return tag("ul", [tag("li", swatch(number), " ", name) for name, number in names.items()], class_="legend")


def curves(chart: Chart) -> Html:
    """A line chart."""
    height, left, right, top, bottom = 190, 46, 330, 12, 160
    points = [point for series in chart.series.values() for point in series]
    values = [y for _, y in points] + ([chart.mark[0]] if chart.mark else [])
    # A first line far above the rest would press all others flat.
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
        parts.append(tag("line", x1=left, x2=right, y1=_at(up(y)), y2=_at(up(y)), class_="grid"))
        parts.append(tag("text", f"{y:g}", x=left - 6, y=_at(up(y) + 4), class_="end"))
    for x in columns:
        parts.append(tag("text", _short(x), x=_at(across(x)), y=bottom + 15, class_="middle"))
    if chart.mark:
        place = up(chart.mark[0])
        parts.append(tag("line", x1=left, x2=right, y1=_at(place), y2=_at(place), class_="mark"))
        parts.append(tag("text", f"{chart.mark[0]:g}: {chart.mark[1]}", x=right, y=_at(place - 4), class_="end"))
    for (name, number), series in chart.series.items():
        line = " ".join(f"{_at(across(x))},{_at(up(y))}" for x, y in series)
        parts.append(tag("polyline", points=line, class_=f"line s{number}"))
        for x, y in series[:: max(len(series) // 30, 1)]:
            text = tag("title", f"{name}: {y:.4g} at {x:g} {chart.unit}")
            radius, kind = (2.5, "dot") if len(series) < 6 else (5, "hover")
            parts.append(tag("circle", text, cx=_at(across(x)), cy=_at(up(y)), r=radius, class_=f"{kind} s{number}"))
    parts.append(tag("text", chart.unit + (", log scale" if log else ""), x=right, y=bottom + 28, class_="end"))
    ends = "; ".join(f"{name} from {s[0][1]:.4g} to {s[-1][1]:.4g}" for (name, _), s in list(chart.series.items())[:12])
    return _svg(height, f"{chart.title} over {chart.unit}: {ends}", parts)


def bars(rows: Sequence[tuple[str, Sequence[float | None]]], arms: dict[str, int], what: str) -> Html:
    """Horizontal bars in percent, one row for each class, one bar for each arm."""
    thick = 7 if len(arms) < 4 else 5
    step = thick * len(arms) + 9
    height = 22 + step * len(rows)
    parts = []
    for x in (0, 25, 50, 75, 100):
        place = _at(_LABELS + 2.2 * x)
        parts.append(tag("line", x1=place, x2=place, y1=16, y2=height - 2, class_="grid"))
        parts.append(tag("text", str(x), x=place, y=11, class_="middle"))
    for row, (name, values) in enumerate(rows):
        y = 20 + step * row
        parts.append(_label(name, y + (step - 9) / 2 + 4))
        for index, ((arm, number), value) in enumerate(zip(arms.items(), values, strict=True)):
            text = tag("title", f"{name}, {arm}: {shown(value)} %")
            if value is None:
                parts.append(tag("text", text, "–", x=_LABELS + 2, y=y + thick * (index + 1), class_="dash"))
                continue
            wide = max(2.2 * min(value, 100.0), 0.6)  # a zero is seen, too
            box = {"x": _LABELS, "y": y + thick * index, "width": _at(wide), "height": thick - 1}
            parts.append(tag("rect", text, **box, class_=f"bar s{number}"))
    return _svg(height, f"{what} of {len(rows)} classes in percent; the table below has the numbers", parts)


def intervals(rows: Sequence[tuple[str, Sequence[dict[str, Any]]]], arms: dict[str, int], what: str) -> Html:
    """Differences as dots on a line of zero, with their intervals."""
    known = [v for _, found in rows for g in found for v in (g["mean"], g["low"], g["high"]) if v is not None]
    ticks = _ticks(min([0.0, *known]), max([0.0, *known]), 5)
    low, high = ticks[0], ticks[-1]
    step = 12 * len(arms) + 8
    height = 22 + step * len(rows)

    def across(value: float) -> float:
        return _LABELS + 8 + (WIDTH - _LABELS - 24) * (value - low) / (high - low)

    parts = []
    for x in ticks:
        parts.append(tag("line", x1=_at(across(x)), x2=_at(across(x)), y1=16, y2=height - 2, class_="zero" if x == 0 else "grid"))
        parts.append(tag("text", f"{x:+g}" if x else "0", x=_at(across(x)), y=11, class_="middle"))
    for row, (name, found) in enumerate(rows):
        parts.append(_label(name, 20 + step * row + 6 * len(arms) + 3))
        for index, ((arm, number), gap) in enumerate(zip(arms.items(), found, strict=True)):
            y = 26 + step * row + 12 * index
            if gap["mean"] is None:
                continue
            text = f"{name}, {arm} minus control: {shown(gap['mean'], sign=True)} points"
            if gap["low"] is not None:
                text += f" [{shown(gap['low'], sign=True)}, {shown(gap['high'], sign=True)}]"
                ends = {"x1": _at(across(gap["low"])), "x2": _at(across(gap["high"])), "y1": y, "y2": y}
                parts.append(tag("line", tag("title", text), **ends, class_=f"line solid s{number}"))
            parts.append(tag("circle", tag("title", text), cx=_at(across(gap["mean"])), cy=y, r=4, class_=f"dot s{number}"))
    return _svg(height, f"{what}, arm minus control in points, for {len(rows)} rows; the table below has the numbers", parts)


def _svg(height: float, text: str, parts: Sequence[Html]) -> Html:
    return tag("svg", parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=text, class_="chart")


def _label(name: str, y: float) -> Html:
    short = name if len(name) <= 15 else name[:14] + "…"
    return tag("text", tag("title", name), short, x=_LABELS - 6, y=_at(y), class_="end")


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers around an interval, some ``count`` of them."""
    wide = max(high - low, abs(high) * 1e-3, 1e-9)
    unit = 10 ** math.floor(math.log10(wide / count))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * count >= wide * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{step * i:.12g}") for i in range(first, max(last, first + 1) + 1)]


def _decades(values: Sequence[float]) -> list[float]:
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    every = max((last - first) // 5, 1)
    return [10.0**i for i in range(first, max(last, first + 1) + every, every)]
