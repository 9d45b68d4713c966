"""Fig. 8: with and without hard negative mining.

    python studies/fig8.py --data DIR --dataset camvid [--quick]

``random``: masks of the training set as they come; where feataug itself draws so, its arm is this one. ``mined``: those of 64 random ones on
which the decoder loses most, mined anew every 25 steps (Sec. 3.3). ``learned``: drawn by the losses that training computes anyway (ours: no
extra forward passes).
"""

from variants import Variants, prepared, told

from feataug import DatasetMasks, HardNegativeSampler


def learned(study: Variants) -> HardNegativeSampler:
    """Hard negatives from the training's own losses."""
    return HardNegativeSampler(DatasetMasks(study.train), learn=True)


def main() -> None:
    study = prepared("fig8", __doc__)
    arms = {"mined": study.variant(masks="mined"), "learned": study.variant(masks=learned)}
    if study.feataug["masks"] != "random":
        arms["random"] = study.variant(masks="random")
    told(study, study.compare(arms))


if __name__ == "__main__":
    main()
