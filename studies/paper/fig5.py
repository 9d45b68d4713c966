"""Fig. 5: which classes gain? Accuracy and IoU of each class before and after, by its share of the training pixels.

    python -m studies.paper.fig5 --data DIR --dataset camvid [--quick]

Needs the arms ``control`` and ``feataug`` alone, and trains them where that has not been done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from studies.lib.variants import Variants, prepare_study


def class_shares(study: Variants) -> dict[str, float]:
    """Each class's share of the training set's valid pixels."""
    counts = torch.zeros(256, dtype=torch.long)
    for index in range(len(study.plain)):
        counts += torch.bincount(torch.as_tensor(study.plain.mask(index)).flatten(), minlength=256)[:256]
    counts = counts[: len(study.classes)]
    return dict(zip(study.classes, (counts / counts.sum()).tolist(), strict=True))


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's rank correlation, for values without ties."""
    ranks = [torch.tensor(values).argsort().argsort().double() for values in (first, second)]
    a, b = (rank - rank.mean() for rank in ranks)
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepare_study("fig5", __doc__, argv=argv)


def run(study: Variants) -> None:
    result = study.compare({})
    area = class_shares(study)
    classes: dict[str, dict[str, Any]] = {}
    for name in study.classes:
        before, after = (result["arms"][arm]["per_class"][name] for arm in ("control", "feataug"))
        gap = result["difference"]["per_class"][name]
        classes[name] = {"share": area[name], "control": before, "feataug": after, "difference": gap}
    measured = [name for name in classes if classes[name]["control"]["acc"] is not None]
    correlation = {
        measure: rank_correlation(
            [classes[name]["share"] for name in measured],
            [classes[name]["feataug"][measure] - classes[name]["control"][measure] for name in measured],
        )
        for measure in ("acc", "iou")
    }
    study.write({"classes": classes, "rank_correlation_of_share_and_gain": correlation})
    for name, entry in sorted(classes.items(), key=lambda item: item[1]["share"]):
        cells = [
            f"{m} {entry['feataug'][m] - entry['control'][m]:+6.2f}" for m in ("acc", "iou") if entry["control"][m] is not None
        ]
        print(f"{name:<20} {entry['share']:7.3%}  " + "  ".join(cells))
    print("rank correlation of share and gain: " + ", ".join(f"{m} {value:+.2f}" for m, value in correlation.items()))


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
