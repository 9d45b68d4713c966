"""Table 1: synthetic images against synthetic features, as 30 % of the batch.

    python studies/table1.py --data DIR --dataset camvid [--quick]

The paper compares with the image generators of its time; here the same generator and objective are used for both, once for features and once
for the image itself (the model cut at its input). "T+V" adds the validation masks, without their images, one to three of the training set's.
"""

from rivals import images
from variants import Variants, prepared, told

from feataug import DatasetMasks, MaskMixture


def with_val_masks(study: Variants) -> MaskMixture:
    """Three of feataug's masks to one of the validation set."""
    return MaskMixture([study.masks(study.feataug["masks"]), DatasetMasks(study.val)], [3, 1])


def main() -> None:
    study = prepared("table1", __doc__)
    arms = {"images": images(study), "masks T+V": study.variant(masks=with_val_masks)}
    told(study, study.compare(arms))


if __name__ == "__main__":
    main()
