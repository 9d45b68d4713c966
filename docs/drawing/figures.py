"""Write the plots of docs/results.md and of its appendix, docs/figures/*.svg, from studies/results: ``python -m docs.drawing.figures``.

Each plot says from which file it was drawn, and that file's digest: a test finds plots that are older than their figures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from feataug.core.measures import TITLES
from feataug.reporting.plots import draw_comparison

HERE = Path(__file__).parents[1]
RESULTS, FIGURES = HERE.parent / "studies" / "results", HERE / "figures"


def recognition(results: dict[str, Any]) -> Figure:
    """How well features are recognised, and how much they differ, while a generator learns."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    curve = results["recognition"]["curve"]
    for number, (name, text) in enumerate((("ratio", "recognition ratio"), ("diversity", "diversity ratio"))):
        axes.plot([entry["images"] for entry in curve], [entry[name] for entry in curve], "o-", color=f"C{number}", label=text)
    for height, number in ((0.95, 0), (0.25, 1)):
        axes.axhline(height, color=f"C{number}", linewidth=1, linestyle=":")
    axes.set_xlabel("images that the generator has seen")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    return figure


def ratios(results: dict[str, Any]) -> Figure:
    """Gains by the synthetic share of a batch, the paper's Fig. 7."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    gaps = {
        float(arm.removeprefix("ratio ")): gap
        for arm, gap in results["comparison"]["differences"].items()
        if arm.startswith("ratio ")
    }
    for number, (measure, title) in enumerate(TITLES.items()):
        found = [gaps[ratio][measure] for ratio in sorted(gaps)]
        means = [gap["mean"] for gap in found]
        spread = None if found[0]["low"] is None else [gap["mean"] - gap["low"] for gap in found]
        # Side by side, so that intervals can be told apart.
        axes.errorbar([ratio + 0.004 * number for ratio in sorted(gaps)], means, spread, fmt="o-", capsize=2, label=title)
    axes.axhline(0, color="grey", linewidth=1)
    axes.set_xlabel("synthetic share of a batch")
    axes.set_ylabel("minus control, points")
    axes.legend(fontsize=8)
    return figure


# The appendix has one plot for each data set.
OLD = RESULTS / "whole-images"
PLOTS: dict[str, tuple[Path, Callable[[dict[str, Any]], Figure]]] = {
    f"{kind}-{name}.svg": (OLD / f"compare-{name}.json", draw)
    for name in ("camvid", "camvid-half", "idd", "idd-half")
    for kind, draw in (("arms", draw_comparison), ("recognition", recognition))
} | {f"{file.stem}.svg": (file, ratios) for file in sorted(OLD.glob("fig7-*.json"))}


def source(file: Path) -> str:
    """What a plot says of the file that it was drawn from."""
    return f"{file.name}, sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"


def main() -> None:
    # Text stays text: smaller files, and the same for all who have the same matplotlib.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "feataug"})
    for name, (file, draw) in PLOTS.items():
        results = json.loads(file.read_text())
        if draw is draw_comparison and "differences" not in results:
            continue
        metadata = {"Date": None, "Creator": None, "Description": source(file)}
        draw(results).savefig(FIGURES / name, format="svg", metadata=metadata)


if __name__ == "__main__":
    main()
