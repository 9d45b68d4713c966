"""Charts of the lines of ``stats.jsonl``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from feataug.core.measures import TITLES
from feataug.reporting.page.run_reader import Run
from feataug.reporting.page.svg import Chart, Points, curves
from feataug.reporting.page.untrusted import as_dict, as_number

# Each loss: what it is, how it should behave, and a value to mark with a line and a name. See docs/losses.md.
LOSSES: dict[str, tuple[str, str, tuple[float, str] | None]] = {
    "flow": ("squared error of the velocity, standardised units", "falls", None),
    "expected": ("squared error of the features that a mask lets expect, standardised units", "falls", (1.0, "each channel's mean")),
    "distill": ("squared error of the samples against those of eight steps, standardised units", "falls", None),
    "l1": ("reconstruction, standardised units", "falls", (0.8, "each channel's mean")),
    "kl": ("latent code from N(0, 1)", "neither 0 nor in the tens", None),
    "latent": ("L1 between z and the z that is recovered from the features", "falls", (0.8, "nothing of z is recovered")),
    "gan": ("generator against the critics", "of the order of the number of critics' outputs", None),
    "critics": ("the critics' own loss", "not near 0", None),
    "task": ("cross entropy of the frozen decoder on synthetic features", "falls", None),
    "diversity": ("mode-seeking term", "falls", None),
}
_POINTS = 240


def style(arm: str, others: Iterable[str] = ()) -> int:
    """The number of the colour and dash with which an arm is drawn."""
    fixed = ["base", "control", "feataug"]
    rest = [name for name in others if name not in fixed]
    return fixed.index(arm) if arm in fixed else 3 + rest.index(arm) % 4 if arm in rest else 2


def drawn_charts(run: Run) -> list[dict[str, Any]]:
    """The charts as the template shows them: ``title``, ``about``, ``drawing``, and the ``styles`` of their series."""
    drawn = []
    for chart in charts(run):
        styles: dict[str, int] = {}
        for name, number in chart.series:
            # The seeds of an arm share one style.
            styles.setdefault(name.split(", seed")[0], number)
        drawn.append({"title": chart.title, "about": chart.about, "drawing": curves(chart), "styles": styles})
    return drawn


def charts(run: Run) -> list[Chart]:
    """A chart of every loss, and of every measure that was taken more than once during a training."""
    generators = {name: lines for name, lines in run.lines.items() if any(not {"flow", "l1", "ratio"}.isdisjoint(x) for x in lines)}
    made = [chart for lines in generators.values() for chart in _generator_charts(lines)]
    return made + _finetuning_charts({name: lines for name, lines in run.lines.items() if name not in generators})


def _generator_charts(lines: list[dict[str, Any]]) -> list[Chart]:
    # Lines of evaluations have a diversity, too, but it is a ratio.
    losses = [x for x in lines if "ratio" not in x]
    made = [
        Chart(name, f"{about}; healthy: {healthy}", "images", {(name, 2): points}, mark)
        for name, (about, healthy, mark) in LOSSES.items()
        if (points := _points(losses, name))
    ]
    ratios = [x for x in lines if "ratio" in x]
    about = "squared error of the velocity on images that are not trained on; healthy: does not rise again"
    made += _repeated_measures("held_out", about, "images", ratios, {"held_out": 1})
    mious = [
        {"progress": x["progress"]} | {kind: as_dict(x.get(kind)).get("miou") for kind in ("real", "synthetic")} for x in ratios
    ]
    percent = "mIoU of the frozen decoder, percent"
    made += _repeated_measures("recognition score", percent, "images", mious, {"real": 1, "synthetic": 2})
    about = "synthetic over real mIoU; 1 is as varied as real"
    return made + _repeated_measures("ratio and diversity ratio", about, "images", ratios, {"ratio": 2, "diversity": 1})


def _finetuning_charts(runs: dict[str, list[dict[str, Any]]]) -> list[Chart]:
    arms = [name.split("/")[-1] for name in runs]
    base = [name for name, arm in zip(runs, arms, strict=True) if arm in ("base", "run", ".")]
    groups = (
        (base, "loss", "moving average over steps"),
        ([name for name in runs if name not in base], "loss, trained further", "moving average over steps; all arms see the same real batches"),
    )
    made: list[Chart] = []
    for names, title, about in groups:
        series = {(_display_name(name), style(name.split("/")[-1], arms)): _points(runs[name], "loss") for name in names}
        if series := {key: points for key, points in series.items() if points}:
            made.append(Chart(title, about, "steps", series))
        for name in names:
            measured = [x for x in runs[name] if "miou" in x]
            styles = {key: index for index, key in enumerate(TITLES)}
            made += _repeated_measures(f"measures, {_display_name(name)}", "percent", "steps", measured, styles)
    return made


def _display_name(name: str) -> str:
    """The name of a training on the page: ``seed-0/control`` is ``control, seed 0``."""
    parts = name.split("/")
    return {"run": "training", ".": "training"}.get(parts[-1], parts[-1]) + (
        f", {parts[0].replace('-', ' ')}" if len(parts) > 1 else ""
    )


def _repeated_measures(title: str, about: str, unit: str, lines: list[dict[str, Any]], names: dict[str, int]) -> list[Chart]:
    found = {(TITLES.get(name, name), number): _points(lines, name) for name, number in names.items()}
    found = {key: points for key, points in found.items() if len(points) > 1}
    return [Chart(title, about, unit, found)] if found else []


def _points(lines: list[dict[str, Any]], name: str) -> Points:
    """Progress and value of each line that has a value; very many points are averaged in groups."""
    found = [(as_number(line["progress"]) or 0.0, as_number(line.get(name))) for line in lines]
    points = [(x, y) for x, y in found if y is not None]
    step = -(-len(points) // _POINTS)
    if step > 1:
        parts = [points[i : i + step] for i in range(0, len(points), step)]
        points = [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]
    return points
