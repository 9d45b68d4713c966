"""Features that were kept when the images went: a few views of each image, encoded once. Alone, flipped, and with another source beside them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from feataug.core.fingerprints import fingerprint
from feataug.core.modes import eval_mode


class KeptFeatures(nn.Module):
    """Features of crops that were encoded once, and the crops' masks, as a source for ``teaching_score``.

    Args:
        features: One ``(N, channels, h, w)`` tensor for each level.
        masks: ``(N, H, W)`` labels of the same crops.
        flipped: Whether each sample's feature maps and mask are mirrored with probability one half.
    """

    def __init__(self, features: tuple[Tensor, ...], masks: Tensor, *, flipped: bool = False) -> None:
        super().__init__()
        self.levels, self.flipped = len(features), flipped
        for number, level in enumerate(features):
            self.register_buffer(f"level_{number}", level)
        self.register_buffer("masks", masks)

    @classmethod
    @torch.no_grad()
    def encode(cls, cut: Any, loader: Iterable[tuple[Tensor, Tensor]], *, flipped: bool = False) -> KeptFeatures:
        """Encode every batch of the loader once."""
        features, masks = [], []
        with eval_mode(cut.model):
            for images, labels in loader:
                features.append(cut.encode(images))
                masks.append(labels)
        return cls(tuple(torch.cat(level) for level in zip(*features, strict=True)), torch.cat(masks), flipped=flipped)

    def forward(self, masks: Tensor, real: tuple[Tensor, ...], rng: torch.Generator) -> Any:
        """As many samples as there are masks, drawn without repetition, and their own masks."""
        rows = torch.randperm(len(self.masks), generator=rng)[: len(masks)].to(self.masks.device)
        drawn = [part[rows] for part in (*self.features, self.masks)]
        if self.flipped:
            mirrored = (torch.rand(len(masks), generator=rng) < 0.5).to(self.masks.device)
            drawn = [torch.where(mirrored.view(-1, *[1] * (part.ndim - 1)), part.flip(-1), part) for part in drawn]
        return tuple(drawn[:-1]), drawn[-1]

    def settings(self) -> dict[str, Any]:
        """Identify this source."""
        return {"kept": fingerprint(self), "flipped": self.flipped}

    @property
    def features(self) -> tuple[Tensor, ...]:
        """One tensor for each level."""
        return tuple(getattr(self, f"level_{number}") for number in range(self.levels))

    @property
    def bytes_in_float16(self) -> int:
        """What the features take, without their masks."""
        return sum(2 * level.numel() for level in self.features)


class HalfAndHalf(nn.Module):
    """Half of a batch from one source, half from another."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, masks: Tensor, real: tuple[Tensor, ...], rng: torch.Generator) -> Any:
        """Samples of both sources, and their masks."""
        half = len(masks) // 2
        parts = [
            _with_masks(source(masks[which], tuple(level[which] for level in real), rng), masks[which])
            for source, which in ((self.first, slice(0, half)), (self.second, slice(half, None)))
        ]
        features = tuple(torch.cat(level) for level in zip(*(part[0] for part in parts), strict=True))
        return features, torch.cat([part[1] for part in parts])

    def settings(self) -> dict[str, Any]:
        """Identify both sources."""
        return {"first": self.first.settings(), "second": self.second.settings()}  # type: ignore[operator]


def _with_masks(made: Any, masks: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """A source returns features, or features and masks of its own."""
    return made if isinstance(made[0], tuple) else (made, masks)
