"""Summarise a comparison: means, differences, what goes beyond a class bias, and where a gain is possible at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from feataug.core.measures import MEASURES, TITLES
from feataug.evaluation.paired_differences import differences, interval, mean_figures, verdict

# The arm with class weights and no synthetic features, and the arm with real features instead of synthetic ones.
WEIGHTS, CEILING = "class weights", "ceiling"


def summary(base: dict[str, Any], finished: Sequence[Mapping[str, Any]], arms: Sequence[str], weighted: bool) -> dict[str, Any]:
    """Make the result of ``compare`` from the finished pairs: means, differences and the verdict.

    Args:
        base: The figures before training.
        finished: ``seed`` and every arm's figures, for each seed.
        arms: The names of the arms; the control is first.
        weighted: Whether there is an arm with only the class weights.
    """
    by_arm = {name: [entry[name] for entry in finished] for name in arms}
    gaps = {name: differences(by_arm["control"], by_arm[name]) for name in arms[1:]}
    found: dict[str, Any] = {
        "base": base,
        "seeds": list(finished),
        "arms": {name: mean_figures(runs) for name, runs in by_arm.items()},
        "difference": gaps["feataug"],
        "differences": gaps,
    }
    if all("before_bias" in run for runs in by_arm.values() for run in runs):
        before = {name: [run["before_bias"] for run in runs] for name, runs in by_arm.items()}
        found["arms_before_bias"] = {name: mean_figures(runs) for name, runs in before.items()}
        found["differences_before_bias"] = {name: differences(before["control"], before[name]) for name in arms[1:]}
    if weighted:
        found["beyond_weights"] = differences(by_arm[WEIGHTS], by_arm["feataug"])
    if CEILING in gaps:
        shares = {name: shares_of(gaps[CEILING], gaps[name]) for name in arms[1:] if name != CEILING}
        found["ceiling"] = {"difference": gaps[CEILING], "share_of_ceiling": shares}
    return found | {"verdict": whole_verdict(found)}


def whole_verdict(found: Mapping[str, Any]) -> str:
    """Join all sentences about a comparison, from the result of ``summary``."""
    gaps = found["differences"]
    sentences = [verdict(found["difference"])]
    if len(found["seeds"]) > 1:
        before = found.get("differences_before_bias", {})
        arms = [name for name in before if name != CEILING]
        sentences += [sentence for name in arms if (sentence := beyond_bias(before[name], gaps[name], name))]
        if "beyond_weights" in found:
            sentences.append(f"Over the class weights alone: {verdict(found['beyond_weights'])}")
        if CEILING in gaps and (sentence := room(gaps[CEILING])):
            sentences.append(sentence)
    return " ".join(sentences)


def beyond_bias(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> str | None:
    """Say which gains a class bias gives as well; ``None`` if there are none.

    Args:
        before, after: Differences to the control without and with a class bias on both sides.
        name: The name of the arm.

    Example:
        >>> before = {m: {"mean": 1.0, "low": 0.5, "high": 1.5} for m in MEASURES}
        >>> after = before | {"miou": {"mean": 0.1, "low": -0.4, "high": 0.6}}
        >>> beyond_bias(before, after, "feataug")
        'feataug shows nothing beyond the bias in mIoU: +1.00 [+0.50, +1.50] points before the class bias, +0.10 [-0.40, +0.60] after it.'
    """
    lost = [m for m in MEASURES if _above_zero(before[m]) and not _above_zero(after[m])]
    if not lost:
        return None
    first, *rest = (
        f"{TITLES[m]}: {interval(before[m])} points before {'the class bias' if m == lost[0] else 'it'}, {interval(after[m])} after it"
        for m in lost
    )
    return f"{name} shows nothing beyond the bias in {'; in '.join([first, *rest])}."


def room(ceiling: Mapping[str, Any]) -> str | None:
    """Say in which measures even real features gain nothing; ``None`` if there is no such measure.

    Args:
        ceiling: Differences of the arm ``"ceiling"`` to the control.

    Example:
        >>> gaps = {m: {"mean": 1.0, "low": 0.5, "high": 1.5} for m in MEASURES}
        >>> room(gaps)
        >>> room(gaps | {"miou": {"mean": 0.1, "low": -0.4, "high": 0.6}})[:105]
        'There is no room in mIoU: real features of further labelled images gain +0.10 [-0.40, +0.60] points there'
    """
    narrow = [m for m in MEASURES if ceiling[m]["low"] is not None and not _above_zero(ceiling[m])]
    if not narrow:
        return None
    titles = ", ".join(TITLES[m] for m in narrow)
    gains = ", ".join(interval(ceiling[m]) for m in narrow)
    return (
        f"There is no room in {titles}: real features of further labelled images gain {gains} points there, which is not shown "
        "to be above zero. Nothing can be said about any arm in such a measure."
    )


def shares_of(ceiling: Mapping[str, Any], arm: Mapping[str, Any]) -> dict[str, float | None]:
    """Divide an arm's mean gain by the ceiling's for each measure; ``None`` where the ceiling's gain is not shown to be above zero."""
    return {m: arm[m]["mean"] / ceiling[m]["mean"] if _above_zero(ceiling[m]) else None for m in MEASURES}


def _above_zero(gap: Mapping[str, Any]) -> bool:
    return gap["low"] is not None and gap["low"] > 0
