"""Models other than our PSPNet that studies run on, and how a study stores their weights."""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from feataug.core.crop_sizes import note_size
from studies.lib.backbone import load_imagenet_weights

FPN_NAME = "smp.FPN, tu-tf_efficientnet_lite0 (ImageNet)"
VIT_NAME = "timm vit_tiny_patch16_224 of 8 blocks (random weights), convolutional head"


def fpn(classes: int, seed: int = 0) -> nn.Module:
    """segmentation_models_pytorch's FPN on tf_efficientnet_lite0 with ImageNet weights. It takes images of multiples of 32."""
    import segmentation_models_pytorch as smp

    torch.manual_seed(seed)
    model = smp.FPN("tu-tf_efficientnet_lite0", encoder_weights=None, classes=classes)
    load_imagenet_weights(model.encoder.model)
    return model


class ViTSegmenter(nn.Module):
    """A small plain ViT from random weights, its tokens as a map, and a convolutional head."""

    def __init__(self, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=size, dynamic_img_size=True, depth=8)
        self.head = nn.Sequential(
            nn.ConvTranspose2d(192, 96, 2, stride=2), nn.BatchNorm2d(96), nn.ReLU(), nn.Conv2d(96, classes, 3, padding=1)
        )

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.vit.forward_features(images)[:, self.vit.num_prefix_tokens :]
        rows, _ = self.vit.patch_embed.dynamic_feat_size(images.shape[-2:])
        logits = self.head(rearrange(tokens, "b (h w) c -> b c h w", h=rows))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


class WeightsFile:
    """Stores the base model's weights in one file; goes before ``Study`` among a study's base classes."""

    output: Any
    size: tuple[int, int]

    def model(self) -> nn.Module:
        raise NotImplementedError

    def save_base(self, model: Any) -> None:
        save_model(model, str(self.output / "base.safetensors"))

    def load_base(self) -> nn.Module:
        """The trained base model; it carries the size of its crops for those who measure it."""
        model = self.model()
        load_model(model, str(self.output / "base.safetensors"))
        note_size(model, self.size)
        return model
