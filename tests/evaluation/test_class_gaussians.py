"""Class Gaussians: means and covariances against the plain formulas, sizes of levels, tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import feataug
from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.errors import DataError
from feataug.evaluation import ClassGaussians
from feataug.evaluation.teaching.class_gaussians import _Moments
from feataug.generation.layers.class_shares import class_shares


def test_means_and_covariances_by_the_formulas(rng):
    count, channels, classes = 4000, 3, 3
    labels = torch.randint(classes, (count,), generator=rng)
    mixing = torch.randn(classes, channels, channels, generator=rng, dtype=torch.float64)
    noise = torch.randn(count, channels, generator=rng, dtype=torch.float64)
    values = 100 + labels[:, None] + torch.einsum("nij,nj->ni", mixing[labels], noise)
    sums = _Moments(classes + 1, channels)
    for part in range(4):
        which = slice(part * 1000, (part + 1) * 1000)
        sums.add(values[which], torch.eye(classes + 1)[labels[which]])
    mean, root = sums.normal()
    own = [values[labels == k] for k in range(classes)]
    pooled = sum(len(x) * x.T.cov(correction=0) for x in own) / count
    for k, x in enumerate(own):
        assert torch.allclose(mean[k], x.mean(0), atol=5e-3)
        wanted = (len(x) * x.T.cov(correction=0) + channels * pooled) / (len(x) + channels)
        assert torch.allclose(root[k] @ root[k].T, wanted, rtol=1e-4, atol=1e-4)
    # Of a class without a cell, what all have in common is known.
    assert torch.allclose(mean[classes], values.mean(0), atol=1e-6)
    assert torch.allclose(root[classes] @ root[classes].T, pooled, rtol=1e-4, atol=1e-4)


class Averaging(nn.Module):
    """An encoder that averages the pixels' colours over cells: its features are the shares of the classes."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(4)
        self.head = nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return nn.functional.interpolate(self.head(self.pool(images)), images.shape[-2:])


COLORS = torch.tensor([[1.0, 0, 0], [0, 5, 0], [0, 0, -2]])


def test_cells_of_several_classes_are_mixed_by_their_shares(rng):
    masks = torch.randint(3, (32, 4, 6), generator=rng).repeat_interleave(4, 1).repeat_interleave(4, 2).roll(1, 2)
    images = COLORS[masks].permute(0, 3, 1, 2).contiguous()
    cut = feataug.split(Averaging().eval(), "pool")
    source = ClassGaussians.fit(cut, [(images, masks)], 3)
    real = cut.encode(images)
    (found,) = source(masks, real, rng)
    # The mean is exact but for the prior, and nothing is left for the noise.
    assert torch.allclose(found, real[0], atol=0.1)
    assert torch.allclose(source.mean_0[:3], COLORS, atol=0.05)


def test_noise_is_of_the_class_and_independent(rng):
    spec = FeatureSpec((LevelSpec("x", 2, 1),))
    source = ClassGaussians(spec, 2)
    source.mean_0[1] = 10
    source.root_0[0] = torch.tensor([[2.0, 0], [1, 1]])
    masks = torch.zeros(2, 64, 64, dtype=torch.long)
    masks[1] = 1
    (found,) = source(masks, (torch.zeros(2, 2, 64, 64),), rng)
    cells = found[0].flatten(1)
    assert torch.allclose(cells.cov(), torch.tensor([[4.0, 2], [2, 2]]), atol=0.3)
    assert abs(float(torch.corrcoef(torch.stack([found[0, 0, :, :-1].flatten(), found[0, 0, :, 1:].flatten()]))[0, 1])) < 0.05
    assert (found[1] == 10).all()
    # The same numbers again, and the means alone.
    first = source(masks, (found,), torch.Generator().manual_seed(3))[0]
    assert torch.equal(first, source(masks, (found,), torch.Generator().manual_seed(3))[0])
    source.spread = 0.0
    assert set(source(masks, (found,), rng)[0].unique().tolist()) == {0.0, 10.0}


@pytest.mark.parametrize(("offset", "size"), [(None, (4, 6)), (0, (3, 5))])
def test_levels_that_are_rounded_up_or_down(offset, size, rng):
    spec = FeatureSpec((LevelSpec("x", 2, 4, offset=offset),))
    source = ClassGaussians(spec, 2, spread=0.0)
    source.mean_0[1] = 1
    masks = torch.randint(2, (1, 15, 23), generator=rng)
    (found,) = source(masks, (torch.zeros(1, 2, *size),), rng)
    assert found.shape == (1, 2, *size)
    assert torch.allclose(found[0, 0], class_shares(masks, 2, 4)[0, 1, : size[0], : size[1]])


def test_tokens_have_distributions_of_their_own(rng):
    spec = FeatureSpec((LevelSpec("x", 2, 4), LevelSpec("x.prefix", 3, 0, tokens=2)))
    source = ClassGaussians(spec, 2, spread=0.0)
    source.mean_1[0], source.mean_1[1] = 1, 2
    masks = torch.zeros(3, 8, 8, dtype=torch.long)
    found = source(masks, (torch.zeros(3, 2, 2, 2), torch.zeros(3, 3, 1, 2)), rng)
    assert found[1].shape == (3, 3, 1, 2)
    assert (found[1][..., 0] == 1).all()
    assert (found[1][..., 1] == 2).all()


def test_an_empty_loader():
    cut = feataug.split(Averaging().eval(), "pool")
    with pytest.raises(DataError) as error:
        ClassGaussians.fit(cut, [], 3)
    assert str(error.value) == (
        "ClassGaussians: the loader yields nothing.\n"
        "  given:   list\n"
        "  needed:  labelled images, whose features the distributions are fitted to"
    )
