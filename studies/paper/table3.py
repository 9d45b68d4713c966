"""Table 3: masks encoded from the images' resolution (Sec. 3.1) against masks made as small as the features first.

    python -m studies.paper.table3 --data DIR --dataset camvid [--images 2400] [--quick]

The plain architecture is the baseline that the paper took from BicycleGAN: a network whose input is as large as its output. Both generators are
trained anew for as many images; recognition scores are measured on masks that neither has seen, and both teach the decoder.
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
from studies.lib.variants import Variants, prepared, told


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


def trained(study: Variants, name: str) -> tuple[Any, dict[str, Any]]:
    """A generator of that kind and its recognition scores."""
    images = 120 if study.args.quick else study.args.images
    folder = study.output / f"table3-{name.replace(' ', '-')}-model"

    def run() -> dict[str, Any]:
        cut = study.cut()
        torch.manual_seed(0)
        generator = KINDS[name](len(study.classes), cut.spec)
        config = replace(study.generator_configs[0], num_images=images, eval_images=0)
        where = study.output / f"table3-{name.replace(' ', '-')}"
        GeneratorTrainer(generator, cut, config, output=where, device=study.args.device, progress=name).fit(
            study.training_loader(1)
        )
        generator.save_pretrained(folder)
        scores = {
            "val": recognition_summary(recognition(cut, generator, study.val_loader, device=study.device, window=study.size), study.classes),
            "train": recognition_summary(recognition(cut, generator, study.some_plain(), device=study.device, window=study.size), study.classes),
        }
        return {"recognition": scores, "parameters": sum(p.numel() for p in generator.parameters())}

    figures = study.stage(f"table3-{name.replace(' ', '-')}", run)
    return KINDS[name].from_pretrained(folder), figures | {"images": images}


def extra(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=2_400, help="what each generator is trained on")


def prepare(argv: Sequence[str] | None = None) -> Variants:
    return prepared("table3", __doc__, extra=extra, argv=argv)


def arms(study: Variants) -> dict[str, Any]:
    return {name: study.variant(generator=trained(study, name)[0]) for name in KINDS}


def run(study: Variants) -> None:
    figures = {name: trained(study, name)[1] for name in KINDS}
    study.write({"generators": figures})
    for name, entry in figures.items():
        score = entry["recognition"]["val"]
        print(
            f"{name}: recognised with mIoU {score['synthetic']:.2f} (real {score['real']:.2f}), diversity {score['diversity']:.2f}"
        )
    result = study.compare(arms(study))
    study.write({"generators": figures, "comparison": result})
    told(study, result)


def main() -> None:
    run(prepare())


if __name__ == "__main__":
    main()
