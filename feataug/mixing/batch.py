"""A batch of real and synthetic samples, and the plan that it is made from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MixPlan:
    """What is random about a mixed batch, drawn before anything is computed: it can be logged and replayed.

    Args:
        masks: ``(synthetic, H, W)``.
        z: ``(synthetic, latent_dim)``.
        drawn: The masks of all processes; ``masks`` itself where there is one.
        places: Where the samples lie in the mixer's bank, ``(synthetic,)``, if it has one.
    """

    masks: Tensor
    z: Tensor
    drawn: Tensor | None = None
    places: Tensor | None = None


@dataclass(frozen=True)
class MixedBatch:
    """Real samples first, synthetic ones after them.

    Args:
        features: One ``(real + synthetic, channels, h, w)`` tensor per level. Empty where the user's own forward does the
            joining (``mixer.on``): the features then never leave the model.
        masks: ``(real + synthetic, H, W)`` int64.
        is_synthetic: ``(real + synthetic,)`` bool.
        num_real: How many samples come from images; kept as a number, so that asking for it never waits for a GPU.
        drawn: The masks as their source drew them, ``(synthetic, H, W)``, where it wants to know their losses.

    Source:
        Sec. 3.2.
    """

    features: tuple[Tensor, ...]
    masks: Tensor
    is_synthetic: Tensor

    num_real: int
    drawn: Tensor | None = None

    @property
    def num_synthetic(self) -> int:
        """How many samples were generated."""
        return len(self.is_synthetic) - self.num_real
