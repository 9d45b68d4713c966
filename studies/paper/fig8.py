"""Fig. 8: with and without hard negative mining.

    python -m studies.paper.fig8 --data DIR --dataset camvid [--quick]

``random``: evenly drawn training masks; where feataug draws so itself, this is feataug's arm. ``mined``: the hardest of 64 random masks for
the decoder, mined again every 25 steps (Sec. 3.3). ``learned``: drawn by the losses that training computes anyway (ours), without
extra forward passes.
"""

from collections.abc import Sequence
from typing import Any

from feataug import DatasetMasks, HardNegativeSampler
from studies.lib.variants import Variants, prepare_study, print_comparison


def learned(study: Variants) -> HardNegativeSampler:
    """Hard negatives from the training's own losses."""
    return HardNegativeSampler(DatasetMasks(study.train), learn=True)


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepare_study("fig8", __doc__, argv=argv)


def arms(study: Variants) -> dict[str, Any]:
    mining = {"mined": study.variant(masks="mined"), "learned": study.variant(masks=learned)}
    return mining if study.feataug["masks"] == "random" else mining | {"random": study.variant(masks="random")}


def run(study: Variants) -> None:
    print_comparison(study, study.compare(arms(study)))


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
