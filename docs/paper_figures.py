"""What the studies left, as the lines of docs/paper.md: each function takes the JSON files of a study, and returns a line a figure."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from feataug.report import TITLES, interval

RESULTS = Path(__file__).parents[1] / "studies" / "results"
DATA = {
    "camvid": "CamVid",
    "camvid-half": "CamVid at half its resolution",
    "idd": "IDD-Lite",
    "idd-half": "IDD-Lite at half its resolution",
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K",
}
# Where few images are labelled.
FEW = {"camvid-half-0.25": "a quarter of CamVid at half its resolution"}
TITLED = DATA | FEW


def results(name: str) -> dict[str, dict[str, Any]]:
    """What a study left, by data set: but for the comparison, at half the images' resolution only where there is nothing at their own."""
    titles = DATA if name == "compare" else TITLED
    files = {data: RESULTS / f"{name}-{data}.json" for data in titles}
    found = {data: json.loads(file.read_text()) for data, file in files.items() if file.exists()}
    if name != "compare":
        for data in [data for data in found if f"{data}-half" in found]:
            found.pop(f"{data}-half")
    return found


def compared(r: dict[str, Any]) -> dict[str, Any] | None:
    """The comparison within a study's file, if there are arms."""
    found = r.get("comparison", r)
    return found if "differences" in found else None


def short(gap: dict[str, Any], measures: tuple[str, ...] = ("class_acc", "miou")) -> str:
    return ", ".join(f"{TITLES[m]} {interval(gap[m])}" for m in measures)


def over_base() -> list[str]:
    lines = []
    for data, r in results("compare").items():
        if compared(r):
            gaps = {m: r["arms"]["feataug"][m] - r["base"][m] for m in TITLES}
            lines.append(f"{TITLED[data]}: " + ", ".join(f"{TITLES[m]} {gap:+.2f}" for m, gap in gaps.items()) + " over the base")
    return lines


def over_control() -> list[str]:
    return [
        f"{TITLED[data]}: {short(r['difference'], tuple(TITLES))} over the control ({len(r['seeds'])} seeds)"
        for data, r in results("compare").items()
        if compared(r)
    ]


def recognised() -> list[str]:
    lines = []
    for data, r in results("compare").items():
        score = r["recognition"]
        lines.append(f"{TITLED[data]}: {score['synthetic']:.2f} of {score['real']:.2f} ({score['ratio']:.2f}), on masks never seen")
    return lines


def arms_of(study: str, *names: str) -> Callable[[], list[str]]:
    """Differences from the control of a study's arms."""

    def lines() -> list[str]:
        found = []
        for data, r in results(study).items():
            gaps = (compared(r) or {"differences": {}})["differences"]
            found += [f"{TITLED[data]}, {name}: {short(gaps[name])}" for name in (names or gaps) if name in gaps]
        return found

    return lines


def several_scales() -> list[str]:
    lines = []
    for data, r in results("table2").items():
        if "several_scales" in r:
            one, many = (x["differences"]["feataug"] for x in (r["comparison"], r["several_scales"]))
            lines += [f"{TITLED[data]}, one scale: {short(one)}", f"{TITLED[data]}, six scales and mirrored: {short(many)}"]
    return lines


def generators() -> list[str]:
    lines = []
    for data, r in results("table3").items():
        for name, entry in r["generators"].items():
            score = entry["recognition"]["val"]
            lines.append(f"{TITLED[data]}, {name}: recognised {score['synthetic']:.2f} of {score['real']:.2f}")
    return lines + arms_of("table3", "encoded masks", "small masks")()


def places() -> list[str]:
    lines = []
    for data, r in results("table4").items():
        quick = " (`--quick`: generators of a few hundred images)" if r["study"].get("quick") else ""
        lines.append(f"{TITLED[data]}{quick}: layer, entropy, overlap, synthetic over real mIoU")
        for stage in r["stages"]:
            ratio = f"{stage['recognition']['ratio']:.2f}" if stage.get("recognition") else "-"
            gain = f"; {short(stage['gain'])}" if "gain" in stage else ""
            lines.append(f"`{stage['at']}`: {stage['entropy']:.2f}, {stage['hist_iou']:.2f}, {ratio}{gain}")
    return lines


def by_class() -> list[str]:
    lines = []
    for data, r in results("fig5").items():
        found = r["rank_correlation_of_share_and_gain"]
        better = sum(c["difference"]["acc"]["mean"] > 0 for c in r["classes"].values() if c["difference"].get("acc"))
        lines.append(
            f"{TITLED[data]}: {better} of {len(r['classes'])} classes gain accuracy; rank correlation of a class's share of the pixels and its gain: "
            f"accuracy {found['acc']:+.2f}, IoU {found['iou']:+.2f}"
        )
    return lines


def pictures() -> list[str]:
    return [
        f"{TITLED[data]}: {r['better']} images better, {r['worse']} worse in pixel accuracy (one seed); pictures are kept beside the run"
        for data, r in results("fig3").items()
    ]


def channels() -> list[str]:
    return [
        f"{TITLED[data]}: "
        + ", ".join(f"recognised in {name}: {100 * share:.1f} % of the pixels" for name, share in r["recognised_by"].items())
        for data, r in results("fig6").items()
    ]
