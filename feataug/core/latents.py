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
    """Noise for ``samples`` features of each of ``(B, H, W)`` masks, from a CPU generator, on the CPU: ``(samples * B, latent_size)``.

    A generator with ``takes_seeds`` gets ``(samples * B,)`` int64 seeds instead, and draws the noise on its own device: a flow's noise has as
    many numbers as its features, too many to draw on a CPU in each step, and to keep.

    A source of masks may return any empty tensor if it is asked for none; then the noise is empty, too.
    """
    if getattr(generator, "takes_seeds", False):
        return torch.randint(2**63 - 1, (samples * len(masks),), generator=rng)
    if not len(masks):
        return torch.zeros(0, getattr(generator, "latent_dim", 0))
    size = (int(masks.shape[-2]), int(masks.shape[-1]))
    return torch.randn(samples * len(masks), latent_size(generator, size), generator=rng)


def noise_from_seeds(seeds: Tensor, size: int, device: torch.device) -> Tensor:
    """One row of ``size`` normal numbers for each seed, ``(len(seeds), size)``. A row depends only on its seed and the kind of device."""
    rows = torch.empty(len(seeds), size, device=device)
    for row, seed in zip(rows, seeds.tolist(), strict=True):
        row.normal_(generator=torch.Generator(device).manual_seed(seed))
    return rows


def latents_on(device: torch.device | str, z: Tensor) -> Tensor:
    """Noise on a device, without waiting for it. Seeds stay on the CPU, which reads them."""
    return z.to(device, non_blocking=True) if z.is_floating_point() else z
