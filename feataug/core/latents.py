"""The noise that a generator takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def latent_size(generator: Any, image_size: tuple[int, int]) -> int:
    """How many numbers a generator takes for a mask of ``image_size``: its ``latent_size(image_size)``, or else its ``latent_dim``."""
    own = getattr(generator, "latent_size", None)
    size: int = own(image_size) if callable(own) else generator.latent_dim
    return size


def draw_latents(generator: Any, masks: Tensor, rng: torch.Generator, *, samples: int = 1) -> Tensor:
    """Noise for ``samples`` features of each of ``(B, H, W)`` masks: ``(samples * B, latent_size)``, from a CPU generator, on the CPU.

    A source of masks may return any empty tensor if it is asked for none; then the noise is empty, too.
    """
    if not len(masks):
        return torch.zeros(0, getattr(generator, "latent_dim", 0))
    size = (int(masks.shape[-2]), int(masks.shape[-1]))
    return torch.randn(samples * len(masks), latent_size(generator, size), generator=rng)
