"""Mixers of tiny generators of both kinds, and the masks that they draw."""

from __future__ import annotations

import torch
from torch import nn

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.masks import DatasetMasks
from feataug.mixing.mixer import FeatureMixer
from tests.support.small_generators import small_generator

SPEC = FeatureSpec((LevelSpec("body", 16, 4),))
SIZE = (32, 40)


class Counting(nn.Module):
    """A generator that notes how many samples it makes."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.spec, self.num_classes = inner, inner.spec, inner.num_classes
        if hasattr(inner, "latent_dim"):
            self.latent_dim = inner.latent_dim
        self.made = []

    def latent_size(self, image_size):
        return self.inner.latent_size(image_size)

    def forward(self, masks, z):
        self.made.append(len(masks))
        return self.inner(masks, z)


class Sized:
    """A source whose masks change their size, as those of a training at several scales."""

    def __init__(self):
        self.size, self.drawn = SIZE, []

    def draw(self, n, generator):
        self.drawn.append(n)
        return torch.randint(5, (n, *self.size), generator=generator)


def draw_masks(count, size=SIZE, seed=0):
    return torch.randint(5, (count, *size), generator=torch.Generator().manual_seed(seed))


def make_mixer(bank=6, fresh=0.3, preset="bicyclegan", **kwargs):
    torch.manual_seed(1)
    generator = Counting(small_generator(5, SPEC, preset))
    return FeatureMixer(generator, DatasetMasks(draw_masks(20)), 0.3, bank=bank, fresh=fresh, seed=2, **kwargs)


def batch():
    return (torch.randn(7, 16, 8, 10),), draw_masks(7, seed=5)  # 3 synthetic ones
