"""The same pipeline on other architectures, on CamVid: a pyramid that crosses whole, and a vision transformer.

    python -m studies.own.architectures --data DIR --model fpn|vit [--seeds 0] [--device cpu]

``fpn`` is segmentation_models_pytorch's FPN on tf_efficientnet_lite0 (ImageNet weights), cut at its encoder: four levels cross.
``vit`` is a small timm ViT (random weights, class token) under a convolutional head, cut between two of its blocks: tokens cross.
Both are trained briefly: this shows that every step works, not how good the result can be. Figures go to
``studies/results/architectures-fpn.json`` and ``...-vit.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from feataug import FinetuneConfig, GeneratorConfig, split
from feataug.reporting.tables import table
from feataug.training.device import keep_freed_memory
from studies.lib.other_models import FPN_NAME, VIT_NAME, ViTSegmenter, WeightsFile, fpn
from studies.own.camvid import ARMS, CLASSES, EARLIER, SIZE, STEPS_PER_EPOCH, CamVidStudy, arguments

GENERATOR = GeneratorConfig.bicyclegan(
    **EARLIER,
    num_images=1_600,
    lr=1e-3,
    diversity_weight=0.1,
    task_weight=2.0,
    eval_images=800,
    snapshot_images=200,
    log_images=160,
    ema_images=400,
)


class Architecture(WeightsFile, CamVidStudy):
    further = FinetuneConfig(num_steps=STEPS_PER_EPOCH, lr=0.005, lr_scale={"encoder": 0.3, "vit": 0.3}, save_every=11)
    generator_configs = (GENERATOR,)

    def cut(self) -> Any:
        return split(self.load_base(), at=self.at, example=torch.zeros(1, 3, *self.size))


class FPN(Architecture):
    name, at = FPN_NAME, "encoder"
    size = (256, 320)  # smp takes multiples of 32
    base_config = FinetuneConfig(num_steps=14 * STEPS_PER_EPOCH, lr=0.05, lr_scale={"encoder": 0.3}, eval_every=154, save_every=22)

    def model(self) -> nn.Module:
        return fpn(CLASSES)


class ViT(Architecture):
    name, at = VIT_NAME, "vit.blocks.3"
    base_config = FinetuneConfig(num_steps=16 * STEPS_PER_EPOCH, lr=0.05, eval_every=176, save_every=22)

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return ViTSegmenter(CLASSES, SIZE)


def main() -> None:
    parser = arguments(__doc__, "architectures")
    parser.add_argument("--model", choices=("fpn", "vit"), required=True)
    parser.set_defaults(seeds=[0])
    args = parser.parse_args()
    args.output = args.output / args.model
    args.result = Path(args.result).with_name(f"architectures-{args.model}.json")
    keep_freed_memory()
    result = {"fpn": FPN, "vit": ViT}[args.model](args).run()
    print(table({name: result[name] for name in ("base", *ARMS)}))
    print(json.dumps(result["recognition"], indent=1))


if __name__ == "__main__":
    main()
