"""Lines of ``stats.jsonl`` as charts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from feataug.core.measures import TITLES
from feataug.reporting.page.run_reader import Run
from feataug.reporting.page.untrusted import mapping, number

# Name to what it is, what is healthy, and a value to draw as a line with its name: docs/losses.md.
LOSSES: dict[str, tuple[str, str, tuple[float, str] | None]] = {
    "l1": ("reconstruction, standardised units", "falls", (0.8, "each channel's mean")),
    "kl": ("latent code from N(0, 1)", "neither 0 nor in the tens", None),
    "latent": ("L1 between z and what is found of it", "falls", (0.8, "nothing of z is found")),
    "gan": ("generator against the critics", "of the order of the number of critics' outputs", None),
    "critics": ("the critics' own", "not near 0", None),
    "task": ("cross entropy of the frozen decoder on synthetic features", "falls", None),
    "diversity": ("mode-seeking term", "falls", None),
}
_POINTS = 240
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart: series by name with the number of their style.

    Attributes:
        title, about: What it shows.
        unit: Of the horizontal axis: images or steps.
        series: Name and style to points.
        mark: A value to draw, and its name.
    """

    title: str
    about: str
    unit: str
    series: dict[tuple[str, int], Points] = field(default_factory=dict)
    mark: tuple[float, str] | None = None


def style(arm: str, others: Iterable[str] = ()) -> int:
    """The number of an arm's colour and dash."""
    fixed = ["base", "control", "feataug"]
    rest = [name for name in others if name not in fixed]
    return fixed.index(arm) if arm in fixed else 3 + rest.index(arm) % 4 if arm in rest else 2


def charts(run: Run) -> list[Chart]:
    """Every loss, and every measure that was taken more than once while a training went on."""
    generators = {name: lines for name, lines in run.lines.items() if any("l1" in x or "ratio" in x for x in lines)}
    tuned = {name: lines for name, lines in run.lines.items() if name not in generators}
    made = []
    for lines in generators.values():
        made += [
            Chart(name, f"{what}; healthy: {healthy}", "images", {(name, 2): found}, mark)
            for name, (what, healthy, mark) in LOSSES.items()
            # The evaluations' diversity is another one: a ratio.
            if (found := _points([x for x in lines if "ratio" not in x], name))
        ]
        measured = [x for x in lines if "ratio" in x]
        real = [
            {"progress": x["progress"]} | {kind: mapping(x.get(kind)).get("miou") for kind in ("real", "synthetic")}
            for x in measured
        ]
        made += _several("recognition score", "mIoU of the frozen decoder, percent", "images", real, {"real": 1, "synthetic": 2})
        ratios = {"ratio": 2, "diversity": 1}
        made += _several(
            "ratio and diversity ratio", "synthetic over real mIoU; 1 is as varied as real", "images", measured, ratios
        )
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, lines in tuned.items():
        groups.setdefault("base" if name.split("/")[-1] in ("base", "run", ".") else "further", {})[name] = lines
    arms = [name.split("/")[-1] for name in tuned]
    for group, members in groups.items():
        further = ("loss, trained further", "moving average over steps; all arms see the same real batches")
        title, about = ("loss", "moving average over steps") if group == "base" else further
        found_all: dict[tuple[str, int], Points] = {}
        for name, lines in members.items():
            if found := _points(lines, "loss"):
                found_all[_said(name), style(name.split("/")[-1], arms)] = found
        if found_all:
            made.append(Chart(title, about, "steps", found_all))
        for name, lines in members.items():
            measured = [x for x in lines if "miou" in x]
            numbers = {key: index for index, key in enumerate(TITLES)}
            made += _several(f"measures, {_said(name)}", "percent", "steps", measured, numbers)
    return made


def _said(name: str) -> str:
    """``seed-0/control`` as ``control, seed 0``."""
    parts = name.split("/")
    return {"run": "training", ".": "training"}.get(parts[-1], parts[-1]) + (
        f", {parts[0].replace('-', ' ')}" if len(parts) > 1 else ""
    )


def _several(title: str, about: str, unit: str, lines: list[dict[str, Any]], names: dict[str, int]) -> list[Chart]:
    found = {(TITLES.get(name, name), number): _points(lines, name) for name, number in names.items()}
    found = {key: points for key, points in found.items() if len(points) > 1}
    return [Chart(title, about, unit, found)] if found else []


def _points(lines: list[dict[str, Any]], name: str) -> Points:
    """Progress and value of each line that has one; means of neighbours where there are very many."""
    found = [(number(line["progress"]) or 0.0, number(line.get(name))) for line in lines]
    points = [(x, y) for x, y in found if y is not None]
    step = -(-len(points) // _POINTS)
    if step > 1:
        parts = [points[i : i + step] for i in range(0, len(points), step)]
        points = [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]
    return points
