"""Tables of docs/paper.md and its appendix: each function reads a study's JSON files and returns a table and a short version of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from docs.drawing.words import data_title, seeds
from feataug.core.measures import TITLES
from feataug.evaluation.paired_differences import interval
from feataug.reporting.tables import MEASURES

RESULTS = Path(__file__).parents[2] / "studies" / "results"
# Earlier figures: models measured on whole images, without a class bias.
WHOLE_IMAGES = RESULTS / "whole-images"
_read_from = [RESULTS]
# At the images' own resolution first.
DATA = ("camvid", "idd", "cityscapes", "ade20k", "camvid-half", "idd-half")
# Few labelled images, and a study that was repeated with another base model.
MORE = ("camvid-half-0.25", "camvid-again")
DATA_TITLES = {data: data_title(data) for data in (*DATA, *MORE)}
BOTH = ("class_acc", "miou")


class Figures(NamedTuple):
    """A table, and its main figures: one line for each data set."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    brief: Sequence[str]

    def table(self) -> list[str]:
        """The table in Markdown."""
        lines = [self.head, ["---"] * len(self.head), *self.rows] if self.rows else []
        return [f"| {' | '.join(line)} |" for line in lines]


@contextmanager
def within(folder: Path) -> Iterator[None]:
    """Read figures from that folder inside a ``with``."""
    _read_from.append(folder)
    try:
        yield
    finally:
        _read_from.pop()


def results(name: str) -> dict[str, dict[str, Any]]:
    """A study's result files, by data set."""
    known = DATA if name == "compare" and _read_from[-1] == WHOLE_IMAGES else DATA_TITLES
    files = {data: _read_from[-1] / f"{name}-{data}.json" for data in known}
    return {data: json.loads(file.read_text()) for data, file in files.items() if file.exists()}


def compared(r: dict[str, Any]) -> dict[str, Any] | None:
    """The comparison in a study's file; ``None`` where no arms have been run."""
    found = r.get("comparison", r)
    return found if "differences" in found else None


def data_and_seeds(data: str, r: dict[str, Any] | None) -> str:
    """The data set and, where arms have been compared, the number of seeds."""
    return DATA_TITLES[data] + (f" ({seeds(r['seeds'])})" if r else "")


def pair(gap: dict[str, Any]) -> str:
    """Means in class accuracy and mIoU."""
    return " / ".join(f"{gap[m]['mean']:+.2f}" for m in BOTH)


def over_base() -> Figures:
    rows, brief = [], []
    for data, r in results("compare").items():
        if compared(r):
            gaps = {m: r["arms"]["feataug"][m] - r["base"][m] for m in MEASURES}
            rows.append([DATA_TITLES[data], str(len(r["seeds"])), *(f"{gap:+.2f}" for gap in gaps.values())])
            brief.append(f"{data_and_seeds(data, r)}: {gaps['class_acc']:+.2f} / {gaps['miou']:+.2f}")
    return Figures(["data", "seeds", *TITLES.values()], rows, brief)


def gaps(study: str, *names: str, brief: Sequence[str] = (), measures: Sequence[str] = tuple(MEASURES)) -> Callable[[], Figures]:
    """Differences of a study's arms from the control: all arms, or ``names``. The short version has all of them, or ``brief``."""

    def figures() -> Figures:
        rows, lines = [], []
        for data, r in results(study).items():
            found = compared(r) or {"differences": {}, "seeds": []}
            known = found["differences"]
            arms = [name for name in (names or known) if name in known]
            rows += [[DATA_TITLES[data], arm, str(len(found["seeds"])), *(interval(known[arm][m]) for m in measures)] for arm in arms]
            short = [f"{arm} {pair(known[arm])}" for arm in arms if arm in (brief or arms)]
            lines += [f"{data_and_seeds(data, found)}: {', '.join(short)}"] if short else []
        return Figures(["data", "arm", "seeds", *(TITLES[m] for m in measures)], rows, lines)

    return figures


def together(*parts: Callable[[], Figures]) -> Callable[[], Figures]:
    """Figures of several studies with equal heads in one table, sorted by data set."""

    def figures() -> Figures:
        found = [part() for part in parts]
        order = list(DATA_TITLES.values())
        rows = sorted((row for x in found for row in x.rows), key=lambda row: order.index(row[0]))
        return Figures(
            found[0].head,
            rows,
            sorted((line for x in found for line in x.brief), key=lambda line: order.index(line.split(" (")[0])),
        )

    return figures


def recognised() -> Figures:
    rows, brief = [], []
    for data, r in results("compare").items():
        score = r["recognition"]
        rows.append([DATA_TITLES[data], *(f"{score[k]:.2f}" for k in ("real", "synthetic", "ratio", "diversity"))])
        brief.append(f"{DATA_TITLES[data]}: {score['ratio']:.2f}")
    return Figures(["data", "real features, mIoU", "synthetic features, mIoU", "ratio", "diversity ratio"], rows, brief)


def several_scales() -> Figures:
    rows, brief = [], []
    for data, r in results("table2").items():
        if "several_scales" in r:
            n = str(len(r["comparison"]["seeds"]))
            one, many = (x["differences"]["feataug"] for x in (r["comparison"], r["several_scales"]))
            for scales, gap in (("one", one), ("six, mirrored", many)):
                rows.append([DATA_TITLES[data], scales, n, *(interval(gap[m]) for m in MEASURES)])
            brief.append(f"{data_and_seeds(data, r['comparison'])}: one scale {pair(one)}, six {pair(many)}")
    return Figures(["data", "scales", "seeds", *TITLES.values()], rows, brief)


def generators() -> Figures:
    rows, brief = [], []
    for data, r in results("table3").items():
        found = compared(r)
        short = []
        for name, entry in r["generators"].items():
            score, gain = entry["recognition"]["val"], (found or {"differences": {}})["differences"].get(name)
            figures = [interval(gain[m]) if gain else "-" for m in BOTH]
            seeds = str(len(found["seeds"])) if found else "-"
            recognised = [f"{score['synthetic']:.2f} of {score['real']:.2f}", f"{score['diversity']:.2f}"]
            rows.append([DATA_TITLES[data], name, f"{entry['images']:,}", *recognised, seeds, *figures])
            short.append(f"{name} {score['ratio']:.2f} of real" + (f", {pair(gain)}" if gain else ""))
        brief.append(f"{data_and_seeds(data, found)}: " + "; ".join(short))
    return Figures(
        ["data", "generator", "images", "recognised", "diversity ratio", "seeds", *(TITLES[m] for m in BOTH)], rows, brief
    )


def places() -> Figures:
    rows, brief = [], []
    for data, r in results("table4").items():
        quick = " (`--quick`)" if r["study"].get("quick") else ""
        for stage in r["stages"]:
            ratio = f"{stage['recognition']['ratio']:.2f}" if stage.get("recognition") else "-"
            gain = [interval(stage["gain"][m]) if "gain" in stage else "-" for m in BOTH]
            found = [f"{stage['entropy']:.2f}", f"{stage['hist_iou']:.2f}", ratio]
            rows.append([DATA_TITLES[data] + quick, f"`{stage['at']}`", *found, str(len(r.get("seeds", []))), *gain])
        # The images, the stage that gains most class accuracy, and the last.
        gained = [stage for stage in r["stages"][1:] if "gain" in stage]
        best = max(gained, key=lambda stage: stage["gain"]["class_acc"]["mean"], default=None)
        shown = [stage for stage in r["stages"] if stage in (r["stages"][0], best, r["stages"][-1])]
        short = [
            f"{x['name']} {x['recognition']['ratio']:.2f} of real" + (f", {pair(x['gain'])}" if "gain" in x else "") for x in shown
        ]
        brief.append(f"{data_and_seeds(data, r if r.get('seeds') else None)}{quick}: {'; '.join(short)}")
    return Figures(
        ["data", "cut after", "entropy", "overlap", "synthetic over real mIoU", "seeds", *(TITLES[m] for m in BOTH)], rows, brief
    )


def by_class() -> Figures:
    rows, brief = [], []
    for data, r in results("fig5").items():
        found = r["rank_correlation_of_share_and_gain"]
        better = sum(c["difference"]["acc"]["mean"] > 0 for c in r["classes"].values() if c["difference"].get("acc"))
        rows.append([DATA_TITLES[data], f"{better} of {len(r['classes'])}", f"{found['acc']:+.2f}", f"{found['iou']:+.2f}"])
        brief.append(f"{DATA_TITLES[data]}: rank correlation {found['acc']:+.2f}")
    head = [
        "data",
        "classes that gain accuracy",
        "rank correlation of a class's share of pixels and its gain in accuracy",
        "in IoU",
    ]
    return Figures(head, rows, brief)


def pictures() -> Figures:
    found = results("fig3")
    rows = [[DATA_TITLES[data], str(r["better"]), str(r["worse"])] for data, r in found.items()]
    brief = [f"{DATA_TITLES[data]}: {r['better']} images better, {r['worse']} worse" for data, r in found.items()]
    return Figures(["data", "images with better pixel accuracy (one seed)", "with worse"], rows, brief)


def channels() -> Figures:
    found = results("fig6")
    rows = [[DATA_TITLES[data], *(f"{100 * share:.1f} %" for share in r["recognised_by"].values())] for data, r in found.items()]
    kinds = list(next(iter(found.values()))["recognised_by"]) if found else []
    brief = [
        f"{DATA_TITLES[data]}: " + ", ".join(f"{kind} {100 * x:.1f} %" for kind, x in r["recognised_by"].items())
        for data, r in found.items()
    ]
    return Figures(["data", *(f"pixels recognised in {kind}" for kind in kinds)], rows, brief)
