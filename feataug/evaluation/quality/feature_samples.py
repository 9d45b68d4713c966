"""Sample cells of real and synthetic feature maps evenly, in bounded memory; and whole maps on a coarse grid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from feataug.core.checks import check_batch, check_features, check_loader, check_masks
from feataug.core.latents import draw_latents, latents_on
from feataug.core.rng import generator_for
from feataug.core.specs import LevelSpec
from feataug.errors import DataError
from feataug.generation.layers.class_shares import class_shares

# Whole maps are compared on a grid with this many cells on each side.
_SIDE = 8


@dataclass
class Gathered:
    """Real and synthetic features of one level for the same masks, in standardised units.

    Args:
        level: The level.
        count: The largest number of cells to keep.
        rng: Draws the cells.

    Attributes:
        real, synthetic: Cells ``(n, channels)``, in random order.
        labels: The classes of the cells, ``(n,)``.
        real_maps, synthetic_maps: ``(images, channels, 64)``: 8 x 8 cells spread evenly over each map, so that maps of any size can be
            compared. Smaller maps repeat some cells.
    """

    level: LevelSpec
    count: int
    rng: torch.Generator
    real: Tensor = field(default_factory=lambda: torch.empty(0))
    synthetic: Tensor = field(default_factory=lambda: torch.empty(0))
    labels: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    keys: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    maps: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def add(self, real: Tensor, synthetic: Tensor, masks: Tensor, num_classes: int) -> None:
        """Add a batch's features ``(B, channels, h, w)`` and masks ``(B, H, W)``."""
        h, w = real.shape[-2:]
        # If the level's size is rounded down, the last pixels of an image belong to no cell.
        labels = class_shares(masks, num_classes, self.level.reduction).argmax(1)[:, :h, :w].flatten().cpu()
        # A key for every cell, drawn image by image: the sample depends neither on batches nor on other images' masks.
        keys = torch.cat([torch.rand(h * w, generator=self.rng, dtype=torch.float64) for _ in masks])
        valid = (labels < num_classes).nonzero().flatten()
        chosen = valid[keys[valid].topk(min(self.count, len(valid)), largest=False).indices]
        found = [rearrange(x.float(), "b c h w -> (b h w) c")[chosen.to(x.device)] for x in (real, synthetic)]
        fresh = [*found, labels[chosen], keys[chosen]]
        if self.keys.numel():
            fresh = [torch.cat([a, b]) for a, b in zip((self.real, self.synthetic, self.labels, self.keys), fresh, strict=True)]
        order = fresh[3].argsort()[: self.count]
        self.real, self.synthetic, self.labels, self.keys = (x[order.to(x.device)] for x in fresh)
        rows, columns = (torch.linspace(0, side - 1, _SIDE, device=real.device).round().long() for side in (h, w))
        first, second = (rearrange(x.float()[:, :, rows][..., columns], "b c h w -> b c (h w)") for x in (real, synthetic))
        self.maps.append((first, second))

    @property
    def real_maps(self) -> Tensor:
        """Coarse maps of the images' features."""
        return torch.cat([real for real, _ in self.maps])

    @property
    def synthetic_maps(self) -> Tensor:
        """Coarse maps of the features generated from their masks."""
        return torch.cat([synthetic for _, synthetic in self.maps])


def gather(
    who: str,
    name: str,
    cut: Any,
    generator: Any,
    loader: Iterable[Any],
    *,
    images: int,
    cells: int,
    ignore_index: int,
    seed: int,
    device: Any,
) -> list[Gathered]:
    """Gather features of the first ``images`` images of a loader and of their masks, for each level that is a map.

    The models must be in eval mode.

    Raises:
        DataError: there is no batch, no cell has a class, or features are not finite.
        DtypeError, LabelError, ShapeError: a batch is no pair of images and masks, or does not fit the model or the generator.
    """
    spec, num_classes = generator.spec, generator.num_classes
    noise = generator_for(seed, "quality", name, "noise")
    # By index, since layers may share a name.
    maps = [number for number, level in enumerate(spec) if not level.tokens]
    levels = [Gathered(spec[number], cells, generator_for(seed, "quality", name, number)) for number in maps]
    seen = 0
    for batch in check_loader(who, loader):
        pictures, masks = check_batch(who, batch, cut.model)
        masks = check_masks(who, masks, num_classes, ignore_index)[: images - seen].to(device)
        pictures = pictures[: len(masks)].to(device, memory_format=torch.channels_last)
        seen += len(masks)
        size = (int(masks.shape[-2]), int(masks.shape[-1]))
        z = latents_on(device, torch.cat([draw_latents(generator, mask[None], noise) for mask in masks]))
        real = generator.standardize(check_features(who, cut.encode(pictures), spec, size))
        synthetic = generator.standardize(check_features(who, generator(masks, z), spec, size))
        for number, gathered in zip(maps, levels, strict=True):
            gathered.add(real[number], synthetic[number], masks, num_classes)
        if seen >= images:
            break
    for gathered in levels:
        if not len(gathered.labels):
            given = f"{seen} images" if not seen else f"{seen} images, all of them void in the cells of {gathered.level.name!r}"
            needed = "labelled images"
            raise DataError(f"{who}: {name} has no cell with a class.", given=given, needed=needed)
        for kind, values in (("real", gathered.real), ("synthetic", gathered.synthetic)):
            if not bool(values.isfinite().all()):
                bad = int((~values.isfinite()).any(1).sum())
                raise DataError(
                    f"{who}: {kind} features are not finite.",
                    given=f"{bad} of {len(values)} cells at level {gathered.level.name!r}",
                    needed="finite numbers",
                )
    return levels
