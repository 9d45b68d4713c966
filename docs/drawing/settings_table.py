"""The first table of docs/results.md: settings in which there is something to gain, and how much of it features gain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.drawing.teaching_tables import ALTERNATIVES, unusual_images
from docs.drawing.words import NAMES, seeds
from feataug.evaluation.paired_differences import difference

RESULTS = Path(__file__).parents[2] / "studies" / "results"
MEASURES = ("miou", "class_acc")
Runs = list[Mapping[str, float]]


@dataclass(frozen=True)
class Setting:
    """One setting: the figures of every arm, seed by seed, after the class bias.

    Args:
        name: The setting in words, with a link to its section.
        start: What is there without synthetic features.
        ceiling: The same with the real data that are missing.
        ours: The same with features of a flow.
        others: By name, what else one could do that sees no more labels: where it started from, and what it reached.
    """

    name: str
    start: Runs
    ceiling: Runs
    ours: Runs
    others: Mapping[str, tuple[Runs, Runs]]

    def row(self) -> str:
        """The setting as a row of the table."""
        best = max(self.others, key=lambda name: _gain(*self.others[name], "miou"), default=None)
        means = [sum(run[m] for run in self.start) / len(self.start) for m in MEASURES]
        cells = [self.name, seeds(self.start), ", ".join(f"{mean:.1f}" for mean in means)]
        for arm in (self.ceiling, self.ours):
            cells.append(", ".join(f"{_gain(self.start, arm, m):+.1f}" for m in MEASURES))
        cells.append(", ".join(_share(_gain(self.start, self.ours, m), _gain(self.start, self.ceiling, m)) for m in MEASURES))
        cells.append(f"{best}: {', '.join(f'{_gain(*self.others[best], m):+.1f}' for m in MEASURES)}" if best is not None else "-")
        return "| " + " | ".join(cells) + " |"


def _gain(start: Runs, arm: Runs, measure: str) -> float:
    """Mean gain of an arm over where it started from."""
    return float(difference([run[measure] for run in start], [run[measure] for run in arm])["mean"])


def _share(ours: float, ceiling: float) -> str:
    return f"{ours / ceiling:.0%}" if ceiling > 0 else "-"


def settings_table(page: str = "") -> str:
    """The table in Markdown; ``page`` is that of the sections that it points to, if another."""
    lines = [
        "| setting | runs | mIoU, ClassAcc without | real data would gain | features of a flow gain | share | best of the rest |",
        "|---" * 7 + "|",
        *(setting.row().replace("](#", f"]({page}#") for setting in all_settings()),
    ]
    return "\n".join(lines)


def all_settings() -> list[Setting]:
    """The settings in the order of the table."""
    gone = [
        *kept("camvid", read_result("teaching-camvid-half-1600"), read_result("teaching-camvid-half-1600-alternatives")),
        *kept("idd", read_result("teaching-idd-half-1600-distilled"), rest=read_result("teaching-idd-half-1600")),
    ]
    return [*gone, *sites(read_result("sites")), room(read_result("room-camvid-half-0.1-distilled"))]


def kept(
    data: str, result: Mapping[str, Any], alternatives: Mapping[str, Any] | None = None, rest: Mapping[str, Any] | None = None
) -> list[Setting]:
    """The images are gone: one encoded view of each was kept; beside it, or in its place, there are generator and masks.

    Args:
        data: The data set.
        result: The figures of the views, of ours and of real features.
        alternatives: What else one could do with the views, on another base model.
        rest: The figures of class Gaussians and of mirroring, if they are not of ``result``: on the same base model, maybe on fewer seeds.
    """
    runs, compared = _after(result), _after(rest or result)
    about = f" ({seeds(compared['kept'])})" if len(compared["kept"]) != len(runs["kept"]) else ""
    beside = {"kept and gaussians": "class Gaussians", "kept, mirrored": "mirrored features"}
    others = {text + about: (compared["kept"], compared[name]) for name, text in beside.items()}
    if alternatives is not None:
        more = _after(alternatives)
        another = f" ({seeds(more['kept'])}, another base)"
        others |= {name.removeprefix("kept, ") + another: (more["kept"], arm) for name, arm in more.items() if name in ALTERNATIVES}
    where = f"[images are gone](#images-are-gone), {NAMES[data]}"
    gaussians = {f"class Gaussians{about}": (compared["kept"], compared["gaussians"])}
    images = unusual_images(result["settings"])
    flow = f"a flow, trained on {images:,} images," if images else "a flow"
    texts = (f"an encoded view of each was kept; {flow} beside it", f"{flow} in place of the views")
    arms = ((runs["kept and generator"], others), (runs["generator"], gaussians))
    return [Setting(f"{where}: {text}", runs["kept"], runs["real"], ours, other) for text, (ours, other) in zip(texts, arms, strict=True)]


def _after(result: Mapping[str, Any]) -> dict[str, Runs]:
    """By source, its figures after the class bias, seed by seed."""
    return {name: [run[name]["after"] for run in result["teaching"]["seeds"]] for name in result["teaching"]["sources"]}


def sites(result: Mapping[str, Any]) -> list[Setting]:
    """Each site's images, from the other site's model."""
    found = []
    for site, title, other in (("camvid", "CamVid", "idd alone"), ("idd", "IDD-Lite", "camvid alone")):
        runs = {arm: [run[arm]["after"][site] for run in result["runs"]] for arm in result["arms"]}
        name = f"[two sites](#two-sites-no-images-shared), on {title}: from the other site's model"
        others = {"class Gaussians": (runs[other], runs["class Gaussians of both"])}
        found.append(Setting(name, runs[other], runs["real images of both"], runs["generators of both"], others))
    return found


def room(result: Mapping[str, Any]) -> Setting:
    """A tenth of the labels, all masks."""
    runs = {arm: [run[arm] for run in result["seeds"]] for arm in result["arms"]}
    others = {name: (runs["control"], arm) for name, arm in runs.items() if name not in ("control", "feataug", "ceiling")}
    return Setting("[a tenth of the labels, all masks](#few-labels-many-masks)", runs["control"], runs["ceiling"], runs["feataug"], others)


def read_result(name: str) -> dict[str, Any]:
    """A study's result file."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found
