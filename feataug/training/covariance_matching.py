"""Give a trained flow's samples the covariance of real features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from feataug.core.checks import check_batch, check_features, check_loader, check_masks, check_number
from feataug.core.compatibility import check_fits
from feataug.core.devices import device_of
from feataug.core.latents import draw_latents, latents_on
from feataug.core.modes import eval_mode
from feataug.core.rng import generator_for
from feataug.cutting.cut import Cut
from feataug.errors import ConfigError, DataError
from feataug.generation.covariance_map import Moments
from feataug.generation.generator import FeatureGenerator
from feataug.generation.level_buffers import FEWEST_CELLS


@torch.no_grad()
def match_covariance(
    generator: FeatureGenerator,
    cut: Cut,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    images: int = 1_000,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> list[float | None]:
    """Give a trained flow's samples the covariance between channels that real features have.

    A flow's samples vary too little in most directions, and too much in those in which features hardly vary, as after a ViT's blocks. What a
    sample differs by from the mean of its mask is mapped linearly, in each cell, so that over ``images`` images it has the mean and the
    covariance that real features have about this mean. The map is part of the generator, and saved with it. Training the generator further
    forgets it.

    Args:
        generator: A trained generator with ``preset="flow"``; changed in place.
        cut: A cut of the trained model.
        loader: Yields the ``(images, masks)`` that the generator was trained on, as training draws them.
        images: The largest number of images that are read, the first ones.
        seed: Seeds the noise of the samples.
        device: The device for images and masks; the model's by default.

    Returns:
        For each level the variance of samples about the mean of their mask, as a share of that of real features, before the map. ``None`` for a
        level with fewer than 20 cells for each channel, such as a class token: it stays as it is.

    Raises:
        ConfigError: the generator is no flow, or not trained; ``images`` or ``seed`` is out of range.
        ShapeError: the generator was made for another cut.
        DataError: the loader yields nothing, or too few cells at every level; features are not finite.
        DtypeError, LabelError, ShapeError: images, masks or features do not fit; a mask holds a value that is no class.

    Source:
        Ours.
    """
    who = "match_covariance"
    check_number(who, "images", images, low=1, integer=True)
    check_number(who, "seed", seed, low=0, integer=True)
    if generator.preset != "flow":
        raise ConfigError(f"{who}: the generator is no flow.", given=f"preset {generator.preset!r}", needed="a generator with preset='flow'")
    if not bool(generator.fitted):
        raise ConfigError(f"{who}: the generator is not trained.", given="no statistics of features", needed="a generator after GeneratorTrainer.fit")
    check_fits(who, generator, cut.spec, None)
    device = device_of(cut.model) if device is None else torch.device(device)
    rng, seen = generator_for(seed, who), 0
    generator.covariance_map.clear()
    real, synthetic = ([Moments(level.channels, device) for level in generator.spec] for _ in range(2))
    with eval_mode(cut.model), eval_mode(generator):
        for batch in check_loader(who, loader):
            pictures, masks = check_batch(who, batch, cut.model)
            masks = check_masks(who, masks, generator.num_classes, generator.ignore_index)[: images - seen].to(device)
            pictures = pictures[: len(masks)].to(device, memory_format=torch.channels_last)
            seen += len(masks)
            size = (int(masks.shape[-2]), int(masks.shape[-1]))
            features = generator.standardize(check_features(who, cut.encode(pictures), generator.spec, size))
            samples = generator(masks, latents_on(device, draw_latents(generator, masks, rng)), standardized=True)
            expected = generator.encode_masks(masks).expected
            for number, mean in enumerate(expected):
                real[number].add(features[number] - mean)
                synthetic[number].add(samples[number] - mean)
            if seen >= images:
                break
    return _fit(who, generator, real, synthetic, seen)


def _fit(who: str, generator: Any, real: list[Moments], synthetic: list[Moments], seen: int) -> list[float | None]:
    enough = [part.count >= FEWEST_CELLS * len(part.sums) for part in real]
    if not any(enough):
        raise DataError(
            f"{who}: too few cells of features.",
            given=f"{seen} images, {max(part.count for part in real)} cells",
            needed=f"{FEWEST_CELLS} cells for each channel",
            advice="Pass a loader of more images.",
        )
    if not all(bool(part.products.isfinite().all()) for part in (*real, *synthetic)):
        raise DataError(f"{who}: features are not finite.", given=f"NaN or infinity in {seen} images", needed="finite features")
    pairs = list(zip(real, synthetic, strict=True))
    generator.covariance_map.fit({number: pair for number, (pair, there) in enumerate(zip(pairs, enough, strict=True)) if there})
    return [float(found.variance / wanted.variance) if there else None for (wanted, found), there in zip(pairs, enough, strict=True)]
