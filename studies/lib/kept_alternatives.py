"""What else one could do with one view of each image: the usual augmentations, applied to features, and other losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.losses import segmentation_loss
from studies.lib.baselines import VOID, box, half_of_the_classes, ohem_loss
from studies.lib.kept_features import KeptFeatures

REGIONS = {"CutMix": box, "ClassMix": half_of_the_classes}


class Pasted(nn.Module):
    """Into every second sample a region of another is pasted, features and labels alike.

    The region is one of whole cells of the coarsest level, so that no cell's features stand for labels of another image.
    """

    def __init__(self, kept: KeptFeatures, name: str) -> None:
        super().__init__()
        self.kept, self.name = kept, name

    def forward(self, masks: Tensor, real: tuple[Tensor, ...], rng: torch.Generator) -> Any:
        """As many samples as there are masks, and their masks."""
        levels, labels = self.kept(masks, real, rng)
        cells = F.interpolate(labels[:, None].float(), levels[-1].shape[-2:], mode="nearest")[:, 0].long().cpu()
        order = torch.randperm(len(labels), generator=rng)
        into = torch.rand(len(labels), generator=rng) < 0.5
        chosen = torch.stack([REGIONS[self.name](cells[index], rng) & bool(hit) for index, hit in zip(order.tolist(), into, strict=True)])
        return tuple(_paste(level, order, chosen) for level in levels), _paste(labels[:, None], order, chosen)[:, 0]

    def settings(self) -> dict[str, Any]:
        """Identify this source."""
        return {"pasted": self.name, "into": self.kept.settings()}


class Noisy(nn.Module):
    """Gaussian noise on every sample, ``strength`` standard deviations of each channel."""

    def __init__(self, kept: KeptFeatures, strength: float = 0.5) -> None:
        super().__init__()
        self.kept, self.strength = kept, strength
        for number, level in enumerate(kept.features):
            self.register_buffer(f"scale_{number}", strength * level.std((0, 2, 3), keepdim=True))

    def forward(self, masks: Tensor, real: tuple[Tensor, ...], rng: torch.Generator) -> Any:
        """As many samples as there are masks, and their masks."""
        features, labels = self.kept(masks, real, rng)
        noise = (torch.randn(level.shape, generator=rng).to(level) for level in features)
        return tuple(x + n * getattr(self, f"scale_{i}") for i, (x, n) in enumerate(zip(features, noise, strict=True))), labels

    def settings(self) -> dict[str, Any]:
        """Identify this source."""
        return {"noise": self.strength, "on": self.kept.settings()}


class OtherLoss(nn.Module):
    """The kept features themselves, with another loss."""

    def __init__(self, kept: KeptFeatures, name: str, decoder_loss: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.kept, self.name, self.decoder_loss = kept, name, decoder_loss

    def forward(self, masks: Tensor, real: tuple[Tensor, ...], rng: torch.Generator) -> Any:
        """As many samples as there are masks, and their masks."""
        return self.kept(masks, real, rng)

    def settings(self) -> dict[str, Any]:
        """Identify this source."""
        return {"loss": self.name, "of": self.kept.settings()}


def alternatives(kept: KeptFeatures, weights: Tensor) -> Mapping[str, nn.Module]:
    """Every one of them by name; ``weights`` are class weights, ``(num_classes,)``."""
    losses = {
        "label smoothing": lambda out, masks: segmentation_loss(out, masks, 0, label_smoothing=0.1),
        "OHEM": ohem_loss(),
        "class weights": lambda out, masks: segmentation_loss(out, masks, 0, class_weights=weights.to(masks.device)),
    }
    pasted = {f"kept, {name}": Pasted(kept, name) for name in REGIONS}
    return pasted | {"kept, noise": Noisy(kept)} | {f"kept, {name}": OtherLoss(kept, name, loss) for name, loss in losses.items()}


def frequency_weights(masks: Tensor, classes: int, power: float = 0.5) -> Tensor:
    """Class weights that need no trained model: the classes' shares of the pixels to the power ``-power``, with mean 1 over the pixels."""
    counts = torch.bincount(masks[masks != VOID].flatten(), minlength=classes)[:classes].double()
    shares = counts / counts.sum()
    weights = shares.clamp(min=1 / float(counts.sum())) ** -power  # a class that is absent counts as one pixel
    return (weights / (weights * shares).sum()).float()


def _paste(level: Tensor, order: Tensor, chosen: Tensor) -> Tensor:
    """Where ``chosen`` (``(B, h, w)``, of whole cells) is true, the values of the samples in ``order``."""
    fine = F.interpolate(chosen[:, None].to(level.device, torch.float32), level.shape[-2:], mode="nearest") > 0.5
    return torch.where(fine, level[order.to(level.device)], level)
