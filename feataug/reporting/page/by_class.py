"""The part of the page with the figures of each class: charts and tables."""

from __future__ import annotations

from typing import Any

from feataug.reporting.page import svg
from feataug.reporting.page.loss_curves import style
from feataug.reporting.page.run_reader import Run
from feataug.reporting.page.table import Table, gap_text, number_text

_ROWS = 400
_KINDS = {"iou": "IoU", "acc": "Accuracy"}
_NO_GAP: dict[str, float | None] = {"mean": None, "low": None, "high": None}


def by_class(run: Run) -> dict[str, Any] | None:
    """Bars, differences, and a table of both, for IoU and accuracy; ``None`` if there are no figures by class."""
    per_class = {name: x["per_class"] for name, x in run.arms.items() if x["per_class"]}
    if not per_class:
        # Without arms: the frozen decoder on real and on synthetic features.
        measures = run.recognition.get("measures", {})
        per_class = {f"{name} features": x["per_class"] for name, x in measures.items() if x["per_class"]}
    if not per_class:
        return None
    names = run.classes[:_ROWS]
    styles = {name: 1 + i if "features" in name else style(name, per_class) for i, name in enumerate(per_class)}
    arms = {arm: style(arm, per_class) for arm, gaps in run.differences.items() if gaps["per_class"]}
    bars, intervals, tables = [], [], []
    for key, title in _KINDS.items():
        values = [(name, [figures.get(name, {}).get(key) for figures in per_class.values()]) for name in names]
        bars.append((title, ", percent", svg.bars(values, styles, title)))
        gaps = {arm: x["per_class"] for arm, x in run.differences.items()}
        if arms:
            shown = [(name, [gaps[arm].get(name, {}).get(key, _NO_GAP) for arm in arms]) for name in names]
            note = "; lines are 95 % intervals" if len(run.seeds) > 1 else "; one pair, no intervals"
            intervals.append((f"{title}: difference to the control", f", points{note}", svg.intervals(shown, arms, title)))
        rows = [
            [name, *map(number_text, cells), *(gap_text(x.get(name, {}).get(key, _NO_GAP)) for x in gaps.values())]
            for name, cells in values
        ]
        caption = f"{title} by class, percent" + ("; differences in points" if gaps else "")
        tables.append(Table(caption, ("class", *per_class, *(f"{arm} − control" for arm in gaps)), rows))
    return {"styles": styles, "charts": bars + intervals, "tables": tables}
