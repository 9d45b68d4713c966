"""Does a figure agree with a claim? One rule for all claims, and the differences that it is applied to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from docs.drawing.paper_tables import compared, results
from feataug.evaluation import difference

Gap = Mapping[str, float | None]
WORDS = ("agrees", "same direction, within noise", "same direction, no interval", "opposite direction, no interval",
         "opposite direction, within noise", "opposite")  # fmt: skip


class Evidence(NamedTuple):
    """A difference, and its sign in the claim."""

    what: str
    sign: int
    gap: Gap


def verdict(sign: int, gap: Gap) -> str:
    """How a difference compares with the sign that a claim gives to it.

    An interval that excludes zero agrees or is opposite. One that holds zero is noise, in either direction. A single run has no interval.
    """
    same = sign * (gap["mean"] or 0.0) > 0
    direction = "same direction" if same else "opposite direction"
    if gap["low"] is None or gap["high"] is None:
        return f"{direction}, no interval"
    if gap["low"] <= 0 <= gap["high"]:
        return f"{direction}, within noise"
    return "agrees" if same else "opposite"


def summary(evidence: Sequence[Evidence]) -> str:
    """The verdicts on a claim: for each measure, how often each one was given."""
    if not evidence:
        return "-"
    measures = dict.fromkeys(entry.what for entry in evidence)
    parts = []
    for what in measures:
        counts = Counter(verdict(entry.sign, entry.gap) for entry in evidence if entry.what == what)
        words = [word + (f" ({counts[word]} of {counts.total()})" if len(counts) > 1 else "") for word in WORDS if word in counts]
        parts.append(f"{what}: {', '.join(words)}")
    return "; ".join(parts)


def over_base() -> list[Evidence]:
    """feataug minus the base model, seed by seed."""
    return [
        Evidence(title, 1, difference([r["base"][m]] * len(r["seeds"]), [run["feataug"][m] for run in r["seeds"]]))
        for r in results("compare").values() if compared(r)
        for m, title in (("class_acc", "ClassAcc"), ("miou", "mIoU"))
    ]  # fmt: skip


def arms(study: str, claims: Sequence[tuple[str, str, str, int]]) -> Callable[[], list[Evidence]]:
    """Differences between two arms of a study.

    Args:
        study: Names the study's files.
        claims: The arm, the arm that is subtracted, the measure, and the sign of the difference in the claim.
    """
    titles = {"class_acc": "ClassAcc", "miou": "mIoU"}

    def evidence() -> list[Evidence]:
        found = []
        for r in filter(None, map(compared, results(study).values())):
            for arm, other, measure, sign in claims:
                if all(name in run for run in r["seeds"] for name in (arm, other)):
                    gap = difference([run[other][measure] for run in r["seeds"]], [run[arm][measure] for run in r["seeds"]])
                    found.append(Evidence(titles[measure], sign, gap))
        return found

    return evidence


def several_scales() -> list[Evidence]:
    """feataug's gain at six scales."""
    gaps = [r["several_scales"]["differences"]["feataug"] for r in results("table2").values() if "several_scales" in r]
    return [Evidence(title, 1, gap[m]) for gap in gaps for m, title in (("class_acc", "ClassAcc"), ("miou", "mIoU"))]


def encoded_masks() -> list[Evidence]:
    """Encoded minus small masks: recognition, then mIoU of the arms."""
    scores = [{name: entry["recognition"]["val"]["ratio"] for name, entry in r["generators"].items()} for r in results("table3").values()]
    gaps = [_single(score["encoded masks"] - score["small masks"]) for score in scores]
    return [Evidence("recognition", 1, gap) for gap in gaps] + arms("table3", [("encoded masks", "small masks", "miou", 1)])()


def places() -> list[Evidence]:
    """Last place minus the image in entropy, overlap and recognition; the middle place's gain in mIoU minus the image's and the last one's."""
    found = []
    for r in results("table4").values():
        first, *between, last = r["stages"]
        found += [Evidence(what, -1, _single(last[key] - first[key])) for what, key in (("entropy", "entropy"), ("overlap", "hist_iou"))]
        found.append(Evidence("recognition", 1, _single(last["recognition"]["ratio"] - first["recognition"]["ratio"])))
        middle = between[len(between) // 2]
        if "gain" in middle:
            gains = [stage["gain"]["miou"]["mean"] for stage in (middle, first, last)]
            found.append(Evidence("mIoU of the middle", 1, _single(gains[0] - max(gains[1:]))))
    return found


def recognised(paper: float) -> Callable[[], list[Evidence]]:
    """The recognition ratio minus the paper's."""
    return lambda: [Evidence("recognition", 1, _single(r["recognition"]["ratio"] - paper)) for r in results("compare").values()]


def images_that_gain() -> list[Evidence]:
    """Images with better pixel accuracy minus those with worse."""
    return [Evidence("PixelAcc of images", 1, _single(r["better"] - r["worse"])) for r in results("fig3").values()]


def rare_classes() -> list[Evidence]:
    """The rank correlation of a class's share and its gain, with Fisher's interval."""
    found = []
    for r in results("fig5").values():
        mean, n = r["rank_correlation_of_share_and_gain"]["acc"], len(r["classes"])
        half = 1.96 / math.sqrt(n - 3)
        low, high = (math.tanh(math.atanh(mean) + side * half) for side in (-1, 1))
        found.append(Evidence("rank correlation", -1, {"mean": mean, "low": low, "high": high}))
    return found


def recognised_pixels() -> list[Evidence]:
    """Pixels that are recognised in encoded masks' features alone minus those in small masks' alone."""
    shares = [list(r["recognised_by"].values()) for r in results("fig6").values()]
    return [Evidence("recognised pixels", 1, _single(encoded - small)) for encoded, small in shares]


def _single(value: float) -> Gap:
    return {"mean": value, "low": None, "high": None}
