"""Warnings about the arms of a comparison, and about classes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from feataug.core.measures import TITLES
from feataug.evaluation.comparison.verdicts import CEILING
from feataug.evaluation.paired_differences import interval, t95
from feataug.reporting.page.findings.finding import Finding
from feataug.reporting.page.run_reader import Run

# The measures in which the paper claims its gains: the others are no reason for a warning where these are clear.
MAIN = ("class_acc", "miou")
SEEDS = 3
MOST_SEEDS = 50
POINTS = 0.2
LOST = 5.0
UNSEEN = 1.0


def findings(run: Run) -> Iterator[Finding]:
    """The warnings that the measures of arms and classes give."""
    yield from _seeds(run)
    yield from _ceiling(run)
    yield from _class_bias(run)
    for arm, gaps in run.differences.items():
        if arm != CEILING:
            yield from _measures(arm, gaps, len(run.seeds))
    yield from _class_weights(run)
    yield from _classes(run)


def _seeds(run: Run) -> Iterator[Finding]:
    pairs = len(run.seeds)
    if run.differences and pairs < SEEDS:
        one = pairs < 2
        yield Finding(
            "seeds",
            "One seed" if one else "Too few seeds",
            "1 seed; differences of about one point are noise" if one else f"{pairs} seeds",
            f"fewer than {SEEDS} seeds",
            "feataug compare --seeds 5 trains more pairs; finished pairs are not run again.",
        )


def _ceiling(run: Run) -> Iterator[Finding]:
    """Can any arm show a gain here?"""
    ceiling = run.differences.get(CEILING)
    narrow = [m for m in TITLES if ceiling is not None and ceiling[m]["low"] is not None and ceiling[m]["low"] <= 0]
    if ceiling is not None and narrow:
        yield Finding(
            "room",
            "There is no room for a gain",
            ", ".join(f"{TITLES[m]} {interval(ceiling[m])}" for m in narrow) + " points with real features of further labelled images",
            "an interval of the ceiling that is not above zero",
            "These measures cannot show a gain of any arm. Use fewer labelled images, train for more steps, or run more seeds.",
        )


def _class_bias(run: Run) -> Iterator[Finding]:
    """Is an arm's gain more than a class bias gives?"""
    for arm, before in run.differences_before_bias.items():
        after = run.differences.get(arm)
        if after is None or arm == CEILING:
            continue
        lost = [m for m in MAIN if _is_above_zero(before[m]) and after[m]["low"] is not None and not _is_above_zero(after[m])]
        if lost:
            yield Finding(
                "bias",
                f"{arm}: nothing beyond the class bias",
                ", ".join(f"{TITLES[m]} {interval(before[m])} before it, {interval(after[m])} after it" for m in lost) + " points",
                "an interval above zero before the class bias that is not above zero after it",
                "A class bias gives this gain without any training: feataug.fit_class_bias, feataug.Inference(model, class_bias=...).",
            )


def _is_above_zero(gap: dict[str, Any]) -> bool:
    return gap["low"] is not None and gap["low"] > 0


def _measures(arm: str, gaps: dict[str, Any], pairs: int) -> Iterator[Finding]:
    unclear = [m for m in TITLES if gaps[m]["low"] is not None and gaps[m]["low"] <= 0 <= gaps[m]["high"]]
    if set(unclear) & set(MAIN):
        yield Finding(
            "zero",
            f"{arm}: intervals contain zero",
            ", ".join(f"{TITLES[m]} {interval(gaps[m])}" for m in unclear) + " points",
            "a 95 % interval that contains zero",
            f"These measures show no difference, neither up nor down. {_seeds_needed(gaps['miou'], pairs)}",
        )
    up, down = gaps["class_acc"], gaps["miou"]
    if up["mean"] is not None and down["mean"] is not None and up["mean"] > POINTS and down["mean"] < -POINTS:
        yield Finding(
            "traded",
            f"{arm}: class accuracy up, mIoU down",
            f"ClassAcc {interval(up)}, mIoU {interval(down)} points",
            f"more than {POINTS} points in each direction",
            "Rare classes are predicted more often, also in the wrong places. Lower ratio or the power of deficit_weights. Use either class "
            "weights or masks chosen by class, not both.",
        )
    pixels = gaps["pixel_acc"]
    if pixels["mean"] is not None and pixels["mean"] < -2 * POINTS and (pixels["high"] is None or pixels["high"] < 0):
        yield Finding(
            "pixels",
            f"{arm}: pixel accuracy falls",
            f"PixelAcc {interval(pixels)} points",
            f"a loss of {2 * POINTS} points; if there is an interval, it must be below zero",
            "Common classes lose what rare ones gain. If they matter most, use no class weights and lower ratio.",
        )


def _seeds_needed(gap: dict[str, Any], pairs: int) -> str:
    """How many seeds might show a difference as large as the one seen."""
    if gap["low"] is None or not gap["low"] <= 0 <= gap["high"] or pairs < 2:
        return "More seeds make intervals narrower."
    spread = (gap["high"] - gap["low"]) / 2 * math.sqrt(pairs) / t95(pairs)
    needed = next((n for n in range(pairs + 1, MOST_SEEDS + 1) if t95(n) * spread / math.sqrt(n) < abs(gap["mean"])), None)
    if needed is None:
        return f"The difference in mIoU is so small that {MOST_SEEDS} seeds would not show it."
    return f"If the difference in mIoU is as large as seen, about {needed} seeds would show it (feataug compare --seeds)."


def _class_weights(run: Run) -> Iterator[Finding]:
    """Is it the synthetic features that gain, or the class weights beside them?"""
    beyond = run.beyond_weights
    if beyond is None or any(beyond[m]["low"] is None or _is_above_zero(beyond[m]) for m in MAIN):
        return
    yield Finding(
        "weights",
        "No gain of synthetic features beyond the class weights is shown",
        ", ".join(f"{TITLES[m]} {interval(beyond[m])}" for m in MAIN) + " points over the weights alone",
        "neither of the two intervals is above zero",
        "deficit_weights give the gain over the control without a generator. Look at the recognition score, run more seeds, or use the weights "
        "alone.",
    )


def _classes(run: Run) -> Iterator[Finding]:
    for arm, gaps in run.differences.items():
        lost = []
        for name, both in gaps["per_class"].items():
            gap = both["iou"]
            if gap["mean"] is not None and (gap["high"] < 0 if gap["high"] is not None else gap["mean"] < -LOST):
                lost.append((gap["mean"], f"{name} {interval(gap)}"))
        if lost:
            yield Finding(
                "lost",
                f"{arm}: classes that lose",
                "IoU of " + ", ".join(text for _, text in sorted(lost)[:8]) + " points",
                f"an interval below zero; without intervals, a loss of {LOST:g} points",
                "Look at them in the pictures. Lower ratio, or use a PixelFilter, which leaves out synthetic pixels that are not recognised.",
            )
    arms = run.arms
    last = arms.get("feataug") or next(reversed(arms.values()), None)
    unseen = [name for name, x in last["per_class"].items() if x["iou"] is not None and x["iou"] < UNSEEN] if last else []
    if unseen:
        yield Finding(
            "unseen",
            "Classes that are never recognised",
            ", ".join(unseen[:12]) + (f" and {len(unseen) - 12} more" if len(unseen) > 12 else ""),
            f"IoU below {UNSEEN:g} %",
            "The base model is too weak, or the classes are too small at this size: train it longer, at a larger --size, or with class weights.",
        )
