"""Table 3: masks encoded from the images' resolution (Sec. 3.1) against masks made as small as the features first.

    python studies/table3.py --data DIR --dataset camvid [--images 2400] [--quick]

The plain architecture is the baseline that the paper took from BicycleGAN: a network whose input is as large as its output. Both generators are
trained anew for as many images; recognition scores are measured on masks that neither has seen, and both teach the decoder.
"""

import argparse
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from variants import Variants, prepared, told

from feataug import FeatureGenerator, FeatureSpec, GeneratorTrainer, recognition
from feataug.data import seeded_loader
from feataug.layers.label_conv import LabelConv2d
from feataug.report import recognition_summary


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
        super().__init__(num_classes, spec, **settings)
        self.mask_encoder = SmallMasks(num_classes, self.mask_encoder.out_channels, self.finest)


KINDS = {"encoded masks": FeatureGenerator, "small masks": PlainGenerator}


def trained(study: Variants, name: str, images: int) -> tuple[Any, dict[str, Any]]:
    """A generator of that kind and its recognition scores."""
    folder = study.output / f"table3-{name.replace(' ', '-')}-model"

    def run() -> dict[str, Any]:
        cut = study.cut()
        torch.manual_seed(0)
        generator = KINDS[name](len(study.classes), cut.spec)
        config = replace(study.generator_configs[0], num_images=images, eval_images=0)
        where = study.output / f"table3-{name.replace(' ', '-')}"
        GeneratorTrainer(generator, cut, config, output=where, device=study.args.device, progress=name).fit(
            seeded_loader(study.train, study.batch, seed=1)
        )
        generator.save_pretrained(folder)
        scores = {
            "val": recognition_summary(recognition(cut, generator, study.val_loader), study.classes),
            "train": recognition_summary(recognition(cut, generator, study.some_plain()), study.classes),
        }
        return {"recognition": scores, "parameters": sum(p.numel() for p in generator.parameters())}

    figures = study.stage(f"table3-{name.replace(' ', '-')}", run)
    return KINDS[name].from_pretrained(folder), figures


def extra(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=2_400, help="what each generator is trained on")


def main() -> None:
    study = prepared("table3", __doc__, extra=extra)
    images = 120 if study.args.quick else study.args.images
    generators = {name: trained(study, name, images) for name in KINDS}
    figures = {name: figures | {"images": images} for name, (_, figures) in generators.items()}
    study.write({"generators": figures})
    for name, entry in figures.items():
        score = entry["recognition"]["val"]
        print(
            f"{name}: recognised with mIoU {score['synthetic']:.2f} (real {score['real']:.2f}), diversity {score['diversity']:.2f}"
        )
    result = study.compare({name: study.variant(generator=generator) for name, (generator, _) in generators.items()})
    study.write({"generators": figures, "comparison": result})
    told(study, result)


if __name__ == "__main__":
    main()
