"""Features drawn from masks, and generators that copy or are honest, for the tests of ``feataug.feature_quality``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from feataug import FeatureGenerator, feature_quality, split

VOID, CLASSES, CHANNELS, STRIDE = 255, 4, 8, 4
MEANS = 2 * torch.randn(CLASSES + 1, CHANNELS, generator=torch.Generator().manual_seed(5))


def drawn(masks, rng, spread=1.0):
    """Features of masks: the class's mean and noise, a vector for each cell."""
    cells = masks[:, ::STRIDE, ::STRIDE].clamp(max=CLASSES)
    noise = torch.randn(*cells.shape, CHANNELS, generator=rng)
    return (MEANS[cells] + spread * noise).movedim(-1, 1)


def batches(seed, count=48, size=4, classes=CLASSES, side=8):
    """Images that are their features enlarged, and their masks."""
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(classes, (count, side // 2, side), generator=rng)
    masks = torch.cat([masks, masks], 1).repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
    images = drawn(masks, rng).repeat_interleave(STRIDE, 2).repeat_interleave(STRIDE, 3)
    return list(zip(images.split(size), masks.split(size), strict=True))


@pytest.fixture(scope="module")
def cut():
    encoder, decoder = nn.AvgPool2d(STRIDE), nn.Conv2d(CHANNELS, CLASSES, 1)
    return split(encoder=encoder, decoder=decoder, example=torch.zeros(1, CHANNELS, 32, 32))


class Planted(FeatureGenerator):
    """A generator whose features are those of a function of masks and noise."""

    def __init__(self, spec, make):
        super().__init__(CLASSES, spec, "bicyclegan", width=4, mask_widths=(4,), depth=0)
        self.make = make

    def forward(self, masks, z=None, **kwargs):
        return tuple(self.make(masks, z))


def honest(cut, spread=1.0):
    def make(masks, z):
        # Noise of the sample's own z, so that batches do not matter.
        seeds = [torch.Generator().manual_seed(abs(hash(tuple(row.tolist())))) for row in z]
        return [torch.cat([drawn(mask[None], rng, spread) for mask, rng in zip(masks, seeds, strict=True)])]

    return Planted(cut.spec, make)


def copier(cut, loader):
    """Training features of the mask, if it is known, else of any."""
    known = {
        tuple(mask.flatten().tolist()): cut.encode(image[None])
        for images, masks in loader
        for image, mask in zip(images, masks, strict=True)
    }
    every = list(known.values())

    def make(masks, z):
        found = [
            known.get(tuple(mask.flatten().tolist()), every[int(1000 * abs(x[0])) % len(every)])
            for mask, x in zip(masks, z, strict=True)
        ]
        return [torch.cat(levels) for levels in zip(*found, strict=True)]

    return Planted(cut.spec, make)


@pytest.fixture(scope="module")
def found(cut):
    return feature_quality(cut, honest(cut), batches(0), batches(1))
