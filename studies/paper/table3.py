"""Table 3: masks encoded from the images' resolution (Sec. 3.1) against masks made as small as the features first.

    python -m studies.paper.table3 --data DIR --dataset camvid [--images 2400] [--quick]

The plain architecture is the baseline that the paper took from BicycleGAN: a network whose input is as large as its output. Both generators
are trained on equally many images. Recognition is measured on masks that neither has seen, and both are used to train the decoder further.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from feataug import FeatureGenerator, FeatureSpec, GeneratorTrainer, recognition
from feataug.generation.layers.label_conv import LabelConv2d
from feataug.io.results import recognition_summary
from studies.lib.variants import Variants, prepare_study, print_comparison


class SmallMasks(nn.Module):
    """Label maps at the features' resolution, the label at the centre of each cell, through one convolution."""

    def __init__(self, num_classes: int, width: int, reduction: int) -> None:
        super().__init__()
        self.num_classes, self.reduction, self.out_channels = num_classes, reduction, width
        self.conv = LabelConv2d(num_classes, width, 3)

    def forward(self, masks: Tensor) -> Tensor:
        """``(B, H, W)`` int64 to ``(B, width, h, w)``."""
        middle = self.reduction // 2
        small = nn.functional.pad(masks, (0, self.reduction - 1, 0, self.reduction - 1), value=self.num_classes)
        rows, columns = (-(-side // self.reduction) for side in masks.shape[-2:])
        small = small[:, middle :: self.reduction, middle :: self.reduction][:, :rows, :columns]
        return self.conv(small.masked_fill((small < 0) | (small >= self.num_classes), self.num_classes))


class PlainGenerator(FeatureGenerator):
    """A generator whose input is as large as its output."""

    def __init__(self, num_classes: int, spec: FeatureSpec, **settings: Any) -> None:
        super().__init__(num_classes, spec, "bicyclegan", **settings)
        self.mask_encoder = SmallMasks(num_classes, self.mask_encoder.out_channels, self.finest)


class EncodingGenerator(FeatureGenerator):
    """The generator of Sec. 3.1, which encodes masks from the images' resolution."""

    def __init__(self, num_classes: int, spec: FeatureSpec, **settings: Any) -> None:
        super().__init__(num_classes, spec, "bicyclegan", **settings)


KINDS = {"encoded masks": EncodingGenerator, "small masks": PlainGenerator}


def train_generator(study: Variants, name: str) -> tuple[Any, dict[str, Any]]:
    """The generator of that kind and its recognition scores; it is trained where it has not been yet."""
    images = 120 if study.args.quick else study.args.images
    key = f"table3-{name.replace(' ', '-')}"
    folder = study.output / f"{key}-model"

    def run() -> dict[str, Any]:
        cut = study.cut()
        torch.manual_seed(0)
        generator = KINDS[name](len(study.classes), cut.spec)
        config = replace(study.bicyclegan_configs[0], num_images=images, eval_images=0)
        trainer = GeneratorTrainer(generator, cut, config, output=study.output / key, device=study.args.device, progress=name)
        trainer.fit(study.training_loader(1))
        generator.save_pretrained(folder)
        loaders = {"val": study.val_loader, "train": study.plain_subset_loader()}
        scores = {
            split: recognition_summary(recognition(cut, generator, loader, device=study.device, window=study.size), study.classes)
            for split, loader in loaders.items()
        }
        return {"recognition": scores, "parameters": sum(p.numel() for p in generator.parameters())}

    figures = study.stage(key, run, study.generator_settings(study.bicyclegan_configs) | {"images": images})
    return KINDS[name].from_pretrained(folder), figures | {"images": images}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=2_400, help="number of images that each generator is trained on")


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepare_study("table3", __doc__, add_options=add_options, argv=argv)


def arms(study: Variants) -> dict[str, Any]:
    return {name: study.variant(generator=train_generator(study, name)[0]) for name in KINDS}


def run(study: Variants) -> None:
    figures = {name: train_generator(study, name)[1] for name in KINDS}
    study.write({"generators": figures})
    for name, entry in figures.items():
        score = entry["recognition"]["val"]
        print(
            f"{name}: recognised with mIoU {score['synthetic']:.2f} (real {score['real']:.2f}), diversity {score['diversity']:.2f}"
        )
    result = study.compare(arms(study))
    study.write({"generators": figures, "comparison": result})
    print_comparison(study, result)


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
