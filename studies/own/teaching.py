"""What do features teach? Fresh decoders on the generator's features alone, on class Gaussians and on real features.

    python -m studies.own.teaching --data DIR --dataset camvid --half [--seeds 0 1] [--generators FOLDER ...] [--device cpu]

The encoder is the base model's, frozen. The layers after the cut start from ImageNet weights, the heads from random ones; 400 steps of 12
training crops. Decoders are measured on validation images by windows of the crops' size, before and after a class bias that is fitted on every
sixth training image. The result also holds the generator's ``recognition`` and ``feature_quality``. Further generators (folders of
``save_pretrained``) are compared on the same seeds. Figures go to ``studies/results/teaching-DATASET.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from feataug import FeatureGenerator, FinetuneConfig, feature_quality, teaching_score
from feataug.core.windows import tiles
from feataug.data import seeded_loader
from feataug.io.atomic import write_json
from feataug.models import PSPNet
from feataug.reporting.tables import teaching_table
from feataug.training.device import keep_freed_memory
from studies.lib.backbone import load_imagenet_weights, phase_dilations
from studies.lib.setups import arguments, parse
from studies.own.protocol import Protocol

STEPS = FinetuneConfig(num_steps=400, lr=0.05, lr_scale={"encoder": 0.3}, save_every=50)


class GeneratorSource(nn.Module):
    """A generator's samples as a source of features."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.generator = FeatureGenerator.from_pretrained(folder)

    def forward(self, masks: Tensor, real: tuple[Tensor, ...], rng: torch.Generator) -> tuple[Tensor, ...]:
        """Features of the masks."""
        made: Any = self.generator(masks, self.generator.draw_z(len(masks), rng))
        return tuple(made)


class Teaching(Protocol):
    """All sources of features on one base model."""

    def fresh(self, seed: int) -> nn.Module:
        """The model before training, with heads drawn by the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = PSPNet("tf_efficientnet_lite0", len(self.classes), output_stride=16, width=128)
        load_imagenet_weights(model.encoder)
        if self.args.device != "cuda":
            phase_dilations(model)
        return model

    def scores(self) -> dict[str, Any]:
        config = FinetuneConfig.from_dict(STEPS.to_dict() | ({"num_steps": 10} if self.args.quick else {}))
        return teaching_score(
            self.load_base(), self.at, self.load_generator(), lambda seed: seeded_loader(self.train, self.batch, seed=300 + seed),
            self.val_loader, config, fresh=self.fresh, seeds=self.args.seeds, window=self.size, bias_loader=self.bias_loader(),
            others={folder.name: GeneratorSource(folder) for folder in self.args.generators}, classes=self.classes,
            output=self.output / "teaching", device=self.args.device,
        )  # fmt: skip

    def quality(self) -> dict[str, Any]:
        """Distances, precision and recall in feature space, and the memory test: training crops against windows of validation images."""
        val = [(part, mask) for images, masks in self.val_loader for part, mask, _ in tiles(images, masks, self.size, 255)]
        cut, train = self.cut(), seeded_loader(self.train, self.batch, seed=400)
        return feature_quality(cut, self.load_generator(), train, val, device=self.device)


def options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    parser.add_argument("--generators", nargs="+", type=Path, default=[], help="folders of further generators, each named after its folder")
    parser.set_defaults(seeds=[0, 1], steps=None)
    return parse(parser, "teaching", None)


def main() -> None:
    args = options(arguments(__doc__))
    keep_freed_memory()
    study = Teaching(args)
    study.run_base()
    study.run_generator()
    result = study.scores()
    figures = {
        "teaching": result,
        "recognition": study.run_recognition(),
        "quality": study.stage("quality", study.quality, study.generator_settings()),
        "settings": {
            "data": args.dataset, "half": args.half, "eval_split": args.eval_split, "size": study.size, "batch": study.batch,
            "images": len(study.train), "model": study.name, "at": study.at, "steps": STEPS.to_dict(), "seeds": args.seeds,
            "generator": [config.to_dict() for config in study.generator_configs], "device": args.device, "torch": torch.__version__,
        },
    }  # fmt: skip
    write_json(args.result, figures)
    print(teaching_table(result))
    print(f"written: {args.result}")


if __name__ == "__main__":
    main()
