"""Fig. 8: with and without hard negative mining.

    python -m studies.paper.fig8 --data DIR --dataset camvid [--quick]

``random``: masks of the training set as they come; where feataug itself draws so, its arm is this one. ``mined``: those of 64 random ones on
which the decoder loses most, mined anew every 25 steps (Sec. 3.3). ``learned``: drawn by the losses that training computes anyway (ours: no
extra forward passes).
"""

from collections.abc import Sequence
from typing import Any

from feataug import DatasetMasks, HardNegativeSampler
from studies.lib.variants import Variants, prepared, told


def learned(study: Variants) -> HardNegativeSampler:
    """Hard negatives from the training's own losses."""
    return HardNegativeSampler(DatasetMasks(study.train), learn=True)


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepared("fig8", __doc__, argv=argv)


def arms(study: Variants) -> dict[str, Any]:
    found = {"mined": study.variant(masks="mined"), "learned": study.variant(masks=learned)}
    return found if study.feataug["masks"] == "random" else found | {"random": study.variant(masks="random")}


def run(study: Variants) -> None:
    told(study, study.compare(arms(study)))


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
