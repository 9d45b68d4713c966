"""Flow matching in feature space: the path from noise to features, the loss, and the sampler.

A feature ``x`` and noise ``e`` are joined by ``x_t = (1 - t) e + t x``. A network learns the velocity ``x - e`` from ``x_t``, ``t`` and the
mask; following it from ``t = 0`` to 1 turns noise into a feature of the mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from feataug.core.specs import FeatureSpec

Velocity = Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]]


def shapes_of(spec: FeatureSpec, image_size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Channels, rows and columns of each level for images of ``image_size``."""
    return [(level.channels, *level.size(image_size)) for level in spec]


def latent_size(spec: FeatureSpec, image_size: tuple[int, int]) -> int:
    """How many numbers of noise a sample takes: as many as its features have."""
    return sum(math.prod(shape) for shape in shapes_of(spec, image_size))


def noise_maps(z: Tensor, spec: FeatureSpec, image_size: tuple[int, int]) -> list[Tensor]:
    """``(B, latent_size)`` as maps of noise, one for each level."""
    shapes = shapes_of(spec, image_size)
    parts = z.split([math.prod(shape) for shape in shapes], dim=1)
    return [part.view(len(z), *shape) for part, shape in zip(parts, shapes, strict=True)]


def draw_times(count: int, rng: torch.Generator) -> Tensor:
    """Logit-normal times (Esser et al. 2024), ``(count,)``, on the device of ``rng``."""
    return torch.sigmoid(torch.randn(count, generator=rng, device=rng.device))


def flow_loss(velocity: Velocity, real: Sequence[Tensor], noise: Sequence[Tensor], times: Tensor) -> Tensor:
    """Mean squared error of the velocity; the mean over the numbers of all levels, each level weighing the same.

    Args:
        velocity: From ``x_t`` of each level and ``(B,)`` times to velocities.
        real, noise: ``(B, channels, h, w)`` for each level, standardised.
        times: ``(B,)``.

    Source:
        Lipman et al. (2023), Eq. (23), with the straight path of Liu et al. (2023).
    """
    wide = times[:, None, None, None]
    noisy = [(1 - wide) * e + wide * x for x, e in zip(real, noise, strict=True)]
    found = velocity(noisy, times)
    errors = [(v.float() - (x - e)).square().mean() for v, x, e in zip(found, real, noise, strict=True)]
    return torch.stack(errors).mean()


def time_steps(steps: int) -> list[float]:
    """Times from 0 to 1, ``steps + 1`` of them. The first steps, out of the noise, are the short ones."""
    # Measured on CamVid by the distance to real features; with two steps, the second must not become too long.
    curve = 2.5 if steps <= 2 else 4.0
    even = [number / steps for number in range(steps + 1)]
    return [u / (u + curve * (1 - u)) for u in even]


def follow(velocity: Velocity, noise: Sequence[Tensor], expected: Sequence[Tensor], steps: int) -> list[Tensor]:
    """From noise to features in ``steps`` steps.

    The method of Adams and Bashforth of second order: each step goes on along the velocity, bent as it bent since the step before. At
    ``t = 0`` the velocity is known: the noise tells nothing of the feature, so that it points to the mean.

    Args:
        velocity: From features at a time and ``(B,)`` times to velocities; asked ``steps - 1`` times.
        noise: ``(B, channels, h, w)`` for each level.
        expected: The mean of the features of the same masks, in the same shapes.
        steps: At least 2. After one step all samples would be the mean.
    """
    at, count, times = list(noise), len(noise[0]), time_steps(steps)
    earlier: tuple[float, Sequence[Tensor]] | None = None
    for start, end in pairwise(times):
        if earlier is None:
            now: Sequence[Tensor] = [mean - e for mean, e in zip(expected, noise, strict=True)]
            drift = now
        else:
            now = velocity(at, torch.full((count,), start, device=at[0].device))
            bend = (end - start) / (2 * (start - earlier[0]))
            drift = [v + bend * (v - before) for v, before in zip(now, earlier[1], strict=True)]
        at = [x + (end - start) * v for x, v in zip(at, drift, strict=True)]
        earlier = start, now
    return at
