"""What all objectives of a generator have in common, as their trainer sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from feataug.core.checks import check_features, check_masks
from feataug.cutting.cut import Cut
from feataug.generation.generator import FeatureGenerator
from feataug.training.config import GeneratorConfig
from feataug.training.feature_statistics import features_of


class Objective:
    """A generator, whatever else is trained with it, their optimizers, and one training step of them all.

    A subclass has ``prepare`` and ``step``. Training in more than one part, and a loss on held-out images, are for those that have them.

    Args:
        generator: A generator made for ``cut.spec``.
        cut: A cut of the trained model, which is in eval mode and without gradients.
        config: Length, learning rate, weights of the losses.

    Attributes:
        parts: The modules besides the generator that checkpoints keep, by name.
        optimizers: By name; there after ``prepare``.
        first_part: The length of the first part in images.
    """

    accelerator: Accelerator
    optimizers: dict[str, Any]

    def __init__(self, generator: FeatureGenerator, cut: Cut, config: GeneratorConfig) -> None:
        self.generator, self.cut, self.config = generator, cut, config
        self.parts = nn.ModuleDict()
        self.first_part = config.num_images

    @property
    def half_life(self) -> int:
        """Of the weights' moving average, in images."""
        return self.config.ema_images

    def begin(self) -> None:
        """Start the first part."""

    def next_part(self, seen: int, averaged: FeatureGenerator) -> bool:
        """Start the next part, from the averaged weights of the last one, if it is time. Return whether it was."""
        return False

    def restore(self, parts: dict[str, Any], averaged: FeatureGenerator) -> None:
        """Load the state of ``parts`` from a checkpoint of any part."""
        self.parts.load_state_dict(parts)

    def prepare(self, accelerator: Accelerator) -> None:
        """Move everything to the accelerator's device and make the optimizers."""
        raise NotImplementedError

    def step(self, images: Tensor | Sequence[Tensor], masks: Tensor, seen: int) -> dict[str, Tensor]:
        """One training step.

        Args:
            images: ``(B, 3, H, W)``, on any device; or the features, one tensor for each level, as a ``FeatureBank`` has them.
            masks: ``(B, H, W)``.
            seen: Images before this batch, in all processes. They decide the noise and the learning rate, so that a resumed run draws
                what the undisturbed one would.

        Returns:
            The unweighted losses by name, without gradients.

        Raises:
            LabelError: a mask holds a value that is neither a class nor ``ignore_index``.
        """
        raise NotImplementedError

    def held_out(
        self, generator: FeatureGenerator, loader: Iterable[tuple[Tensor, Tensor]], window: tuple[int, int] | None = None
    ) -> float | None:
        """The loss of ``generator`` on images that are not trained on; ``None`` if it would say nothing."""
        return None

    def place(self, accelerator: Accelerator) -> None:
        """Move the model, the generator and the parts to the accelerator's device."""
        self.accelerator = accelerator
        self.cut.model.to(accelerator.device)
        for module in (self.generator, self.parts):
            module.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def real(self, images: Tensor | Sequence[Tensor], masks: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Checked masks and standardised features, on the device."""
        masks = self.checked(masks)
        with self.accelerator.autocast():
            features = features_of(self.cut, images, self.accelerator.device)
            check_features("GeneratorTrainer", features, self.generator.spec, size_of(masks))
            return masks, [level.float() for level in self.generator.standardize(features)]

    def checked(self, masks: Tensor) -> Tensor:
        """Masks of known labels, on the device."""
        return check_masks("GeneratorTrainer", masks, self.generator.num_classes, self.generator.ignore_index).to(self.accelerator.device)


def size_of(masks: Tensor) -> tuple[int, int]:
    """Rows and columns."""
    return int(masks.shape[-2]), int(masks.shape[-1])
