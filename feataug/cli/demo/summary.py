"""What the demo says in the end, and whether it showed what it is there to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feataug.errors import TrainingError
from feataug.evaluation.comparison.verdicts import CEILING
from feataug.reporting.tables import comparison_table, share_text

# Percent of IoU above which a class counts as learned.
LEARNED = 5.0


def summary(result: Mapping[str, Any]) -> str:
    """The text that the demo prints: the result in one sentence, then every figure.

    Args:
        result: What ``run_demo`` returned.
    """
    miou = {name: figures["miou"] for name, figures in {"base": result["base"], **result["arms"]}.items()}
    share = result["ceiling"]["share_of_ceiling"]["feataug"]["miou"]
    scenes = result["settings"]["demo"]
    return "\n".join(
        [
            f"{scenes['labelled']} labelled scenes, and masks of {scenes['unlabelled']} scenes without their images. mIoU: trained on the "
            f"labelled scenes {miou['base']:.2f}, longer {miou['control']:.2f}, longer and with features that were generated from the "
            f"masks {miou['feataug']:.2f}. With the images of those masks it would be {miou[CEILING]:.2f}: share of that gain "
            f"{share_text(share)}.",
            "",
            comparison_table(result),
        ]
    )


def check(result: Mapping[str, Any]) -> str:
    """Whether the base has learned every class, real images of the masks would gain, and generated features do.

    Args:
        result: What ``run_demo`` returned.

    Returns:
        A sentence that says so.

    Raises:
        TrainingError: one of these does not hold.
    """
    base = result["base"]["before_bias"]["per_class"]
    gains = {arm: result["differences"][arm] for arm in ("feataug", CEILING)}
    unlearned = [f"{name} {figures['iou']:.1f}" for name, figures in base.items() if figures["iou"] < LEARNED]
    failures = [f"IoU of the base below {LEARNED:g}: {', '.join(unlearned)}"] if unlearned else []
    for arm, gaps in gains.items():
        failures += [f"{arm} gains {gaps[m]['mean']:+.2f} points of {m}" for m in ("class_acc", "miou") if not gaps[m]["mean"] > 0]
    if failures:
        raise TrainingError(
            "feataug demo --check: the demo does not show what it is there to show.",
            given="; ".join(failures),
            needed=f"every class of the base above {LEARNED:g} % IoU before the class bias, and gains of ClassAcc and mIoU of both feataug "
            f"and {CEILING}",
            advice="The defaults were chosen with seed 0 on a CPU. result.json has all figures.",
        )
    shares = result["ceiling"]["share_of_ceiling"]["feataug"]
    return (
        f"check: every class of the base is above {LEARNED:g} % IoU before the class bias; the real images gain "
        f"{gains[CEILING]['miou']['mean']:+.2f} points of mIoU and {gains[CEILING]['class_acc']['mean']:+.2f} of ClassAcc; feataug reaches "
        f"{share_text(shares['miou'])} and {share_text(shares['class_acc'])} of that over {len(result['seeds'])} seeds."
    )
