"""Table 1: synthetic images against synthetic features, as 30 % of the batch.

    python -m studies.paper.table1 --data DIR --dataset camvid [--quick]

The paper compares with the image generators of its time; here the same generator and objective are used for both, once for features and once
for the image itself (the model cut at its input). "T+V" adds the validation masks, without their images, one to three of the training set's.
"""

from collections.abc import Sequence
from typing import Any

from studies.lib.baselines import images
from studies.lib.variants import Variants, prepared, told


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepared("table1", __doc__, argv=argv)


def arms(study: Variants) -> dict[str, Any]:
    return {"images": images(study), "masks T+V": study.variant(masks=study.with_others(study.crops(study.val)))}


def run(study: Variants) -> None:
    told(study, study.compare(arms(study)))


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
