"""Summarise the runs of a teaching score: means, shares of the real features' score, differences and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from feataug.evaluation.paired_differences import differences, interval, mean_figures


def summary(finished: Sequence[Mapping[str, Any]], names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make the result of ``teaching_score`` from the figures of every seed."""
    moments = ("before", "after")
    runs = {name: {moment: [entry[name][moment] for entry in finished] for moment in moments} for name in names}
    score = {
        name: {
            moment: sum(x["miou"] / max(r["miou"], 1e-9) for x, r in zip(runs[name][moment], runs["real"][moment], strict=True))
            / len(finished)
            for moment in moments
        }
        for name in names
    }
    gaps = {
        name: {moment: differences(runs["real"][moment], runs[name][moment]) for moment in moments} for name in names if name != "real"
    }
    means = {name: {moment: mean_figures(runs[name][moment]) for moment in moments} for name in names}
    return {
        "sources": means,
        "score": score,
        "differences": gaps,
        "seeds": list(finished),
        "verdict": _verdict(means, score, gaps, runs),
        "settings": dict(settings),
    }


def _verdict(means: Any, score: Any, gaps: Any, runs: Any) -> str:
    sentences = [f"After the class bias, real features teach a fresh decoder {means['real']['after']['miou']:.2f} mIoU."]
    for name, gap in gaps.items():
        points = interval(gap["after"]["miou"])
        sentences.append(f"{name}: {means[name]['after']['miou']:.2f} mIoU, {score[name]['after']:.0%} of that ({points} points).")
    if {"generator", "gaussians"} <= gaps.keys():
        gap = differences(runs["gaussians"]["after"], runs["generator"]["after"])["miou"]
        found = "no difference is shown between the generator and class Gaussians"
        if gap["low"] is None:
            found = "one seed does not tell the generator from class Gaussians"
        elif gap["low"] > 0 or gap["high"] < 0:
            found = f"the generator teaches {'more' if gap['low'] > 0 else 'less'} than class Gaussians"
        sentences.append(f"{found[0].upper()}{found[1:]} ({interval(gap)} points).")
    return " ".join(sentences)
