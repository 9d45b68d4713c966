"""Table 1: synthetic images against synthetic features.

    python -m studies.paper.table1 --data DIR --dataset camvid [--quick]

The paper compares with the image generators of its time. Here the generator's architecture and objective are the same for both: once for
features, once for the image itself (the model cut at its input). ``masks T+V`` is the feature arm with the validation masks, without their
images, one to three of the training set's.

Equal in the image arm and the feature arm: base model, real batches and their augmentation, steps, learning rates, evenly drawn training
masks, 30 % synthetic samples, label smoothing, loss weights of the generator, class bias.

Different, so that the two arms do not differ by the cut alone:

- The image generator is trained on 1,800 images, the feature generator on 7,200.
- Synthetic features pass the pixel filter; synthetic images are not filtered.
- Synthetic images train the encoder as well; synthetic features train only the layers after the cut.

The committed figures (``studies/results/whole-images``) are older. Their feature arm had 15 % synthetic samples and class weights, their image
arm 30 % and none. ``table4`` compares cuts at equal settings, the image among them.
"""

from collections.abc import Sequence
from typing import Any

from studies.lib.baselines import images
from studies.lib.variants import Variants, prepare_study, print_comparison


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepare_study("table1", __doc__, argv=argv)


def arms(study: Variants) -> dict[str, Any]:
    return {"images": images(study), "masks T+V": study.variant(masks=study.mixed_with(study.crops(study.val)))}


def run(study: Variants) -> None:
    print_comparison(study, study.compare(arms(study)))


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
