"""Differences between paired runs with their confidence intervals, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from feataug.core.checks import check_number
from feataug.core.measures import MEASURES, TITLES


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    """Compute the mean of ``second - first`` over pairs and its 95 % interval by Student's t. A single pair has no interval.

    Example:
        >>> result = difference([50.0, 51.0, 49.0], [51.0, 52.5, 49.5])
        >>> {name: round(value, 2) for name, value in result.items()}
        {'mean': 1.0, 'low': -0.24, 'high': 2.24}
    """
    check_number("difference", "number of pairs", len(first), low=1, integer=True)
    gaps = [b - a for a, b in zip(first, second, strict=True)]
    n = len(gaps)
    mean = sum(gaps) / n
    if n == 1:
        return {"mean": mean, "low": None, "high": None}
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (n - 1) / n)
    return {"mean": mean, "low": mean - t95(n) * spread, "high": mean + t95(n) * spread}


def t95(n: int) -> float:
    """Return the two-sided 95 % point of Student's t for ``n`` pairs, two or more.

    Example:
        >>> round(t95(3), 3), round(t95(40), 3)
        (4.303, 2.023)
    """
    # What scipy.stats.t.ppf calls; importing scipy.stats takes more than a second. Local, since only finished comparisons need it.
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.975))


def differences(control: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Compute ``difference`` for each of the four measures, in points, ``other`` minus ``control``; and for named classes.

    Args:
        control, other: Figures of paired runs, as ``io.results.by_class`` returns them. Classes that some run does not measure are left
            out of ``per_class``.
    """
    result: dict[str, Any] = {name: difference([c[name] for c in control], [o[name] for o in other]) for name in MEASURES}
    if isinstance(control[0].get("per_class"), Mapping) and all(isinstance(x, Mapping) for x in control[0]["per_class"].values()):
        result["per_class"] = {}
        for name in control[0]["per_class"]:
            for measure in ("acc", "iou"):
                pairs = [
                    (c["per_class"][name][measure], o["per_class"][name][measure]) for c, o in zip(control, other, strict=True)
                ]
                if all(value is not None for pair in pairs for value in pair):
                    gaps = difference([a for a, _ in pairs], [b for _, b in pairs])
                    result["per_class"].setdefault(name, {})[measure] = gaps
    return result


def mean_figures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average the four measures and every class over runs; ``None`` if no run has a figure."""

    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    measures: dict[str, Any] = {name: mean([run[name] for run in runs]) for name in MEASURES}
    classes = runs[0]["per_class"]
    return measures | {
        "per_class": {c: {m: mean([run["per_class"][c][m] for run in runs]) for m in ("acc", "iou")} for c in classes},
        "absent": [c for c in classes if all(run["per_class"][c]["acc"] is None for run in runs)],
    }


def verdict(gaps: Mapping[str, Any], name: str = "feataug") -> str:
    """Say in words what the intervals show.

    Example:
        >>> verdict({m: {"mean": 1.0, "low": -0.1 if m == "miou" else 0.5, "high": 2.1} for m in MEASURES})
        'feataug is ahead in PixelAcc, ClassAcc, fwIoU: the interval lies above zero. No difference is shown in mIoU: the interval holds zero.'
    """
    if gaps["miou"]["low"] is None:
        return "Nothing can be said from a single seed: run more of them."
    up = [title for m, title in TITLES.items() if gaps[m]["low"] > 0]
    down = [title for m, title in TITLES.items() if gaps[m]["high"] < 0]
    unclear = [title for title in TITLES.values() if title not in up + down]
    parts = []
    if up:
        parts.append(f"{name} is ahead in {', '.join(up)}: the interval lies above zero.")
    if down:
        parts.append(f"{name} is behind in {', '.join(down)}: the interval lies below zero.")
    if unclear:
        parts.append(f"No difference is shown in {', '.join(unclear)}: the interval holds zero.")
    return " ".join(parts)


def interval(gap: Mapping[str, Any]) -> str:
    """Format a mean difference in points, with its interval if it has one."""
    return f"{gap['mean']:+.2f}" + (f" [{gap['low']:+.2f}, {gap['high']:+.2f}]" if gap["low"] is not None else "")
