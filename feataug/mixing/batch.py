"""The plan of a mixed batch, and the batch itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MixPlan:
    """The random choices for a mixed batch. They are drawn before anything is computed, so that a plan can be logged and replayed.

    Args:
        masks: This process's masks, ``(synthetic, H, W)``.
        z: Their noise, ``(synthetic, latent_size)``, or for a flow the seeds of their noise, ``(synthetic,)`` int64.
        global_masks: The masks of all processes; with one process, ``masks`` itself.
        slots: Positions of the samples in the mixer's bank, ``(synthetic,)``, if it has one.
    """

    masks: Tensor
    z: Tensor
    global_masks: Tensor | None = None
    slots: Tensor | None = None


@dataclass(frozen=True)
class MixedBatch:
    """Real samples, followed by synthetic ones.

    Args:
        features: One ``(real + synthetic, channels, h, w)`` tensor per level. Empty with ``mixer.on``, where the model itself joins
            the features.
        masks: ``(real + synthetic, H, W)`` int64.
        is_synthetic: ``(real + synthetic,)`` bool.
        num_real: Number of real samples. A plain number, so that reading it never waits for a GPU.
        global_masks: The masks that the mask source drew for all processes, if it learns from their losses.

    Source:
        Sec. 3.2.
    """

    features: tuple[Tensor, ...]
    masks: Tensor
    is_synthetic: Tensor

    num_real: int
    global_masks: Tensor | None = None

    @property
    def num_synthetic(self) -> int:
        """Number of synthetic samples."""
        return len(self.is_synthetic) - self.num_real
