"""The same pipeline on other architectures, on CamVid: a pyramid that crosses whole, and a vision transformer.

    python -m studies.own.architectures --data DIR --model fpn|vit [--seeds 0] [--device cpu]

``fpn`` is segmentation_models_pytorch's FPN on tf_efficientnet_lite0 (ImageNet weights), cut at its encoder: four levels cross.
``vit`` is a small timm ViT (random weights, class token) under a convolutional head, cut between two of its blocks: tokens cross.
Both are trained briefly: this shows that the whole way works, not how far it leads. Figures go to
``studies/results/architectures-fpn.json`` and ``...-vit.json``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug import FinetuneConfig, GeneratorConfig, split
from feataug.reporting.tables import table
from feataug.training.device import keep_freed_memory
from studies.lib.backbone import load_imagenet_weights
from studies.lib.base_study import ARMS, CLASSES, EARLIER, SIZE, Study, arguments
from studies.lib.weights_file import WeightsFile

GENERATOR = GeneratorConfig(
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
FURTHER = FinetuneConfig(num_steps=22, lr=0.005, lr_scale={"encoder": 0.3, "vit": 0.3}, save_every=11)


class ViTSegmenter(nn.Module):
    """A plain ViT, its tokens as a map, and a small convolutional head."""

    def __init__(self, classes: int = CLASSES, size: tuple[int, int] = SIZE) -> None:
        super().__init__()
        self.vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size, dynamic_img_size=True, depth=8)
        self.head = nn.Sequential(
            nn.ConvTranspose2d(192, 96, 2, stride=2), nn.BatchNorm2d(96), nn.ReLU(), nn.Conv2d(96, classes, 3, padding=1)
        )

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]
        rows, columns = self.vit.patch_embed.dynamic_feat_size(images.shape[-2:])
        logits = self.head(tokens.transpose(1, 2).unflatten(2, (rows, columns)))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


class Architecture(WeightsFile, Study):
    further = FURTHER
    generator_configs = (GENERATOR,)

    def cut(self) -> Any:
        return split(self.trained(), at=self.at, example=torch.zeros(1, 3, *self.size))


class FPN(Architecture):
    name = "smp.FPN, tu-tf_efficientnet_lite0 (ImageNet)"
    at = "encoder"
    size = (256, 320)  # smp takes multiples of 32
    base_config = FinetuneConfig(num_steps=14 * 22, lr=0.05, lr_scale={"encoder": 0.3}, eval_every=154, save_every=22)

    def model(self) -> nn.Module:
        import segmentation_models_pytorch as smp

        torch.manual_seed(0)
        model = smp.FPN("tu-tf_efficientnet_lite0", encoder_weights=None, classes=CLASSES)
        load_imagenet_weights(model.encoder.model)
        return model


class ViT(Architecture):
    name = "timm vit_tiny_patch16_224 of 8 blocks (random weights), convolutional head"
    at = "vit.blocks.3"
    base_config = FinetuneConfig(num_steps=16 * 22, lr=0.05, eval_every=176, save_every=22)

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return ViTSegmenter()


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
