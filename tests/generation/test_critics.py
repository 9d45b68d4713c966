"""The convolution of label maps against a slow oracle, and the contract of the critics."""

from __future__ import annotations

import pytest
import torch

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.generation.critics import Discriminator, LatentEncoder

K, VOID = 11, 255
FOUR = FeatureSpec((LevelSpec("a", 4, 4), LevelSpec("b", 6, 8), LevelSpec("c", 5, 16), LevelSpec("d", 3, 32)))


def draw_masks(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(K, shape, generator=rng)
    return masks.masked_fill(torch.rand(shape, generator=rng) < 0.1, VOID)


@pytest.mark.parametrize("encoding", ["aspp", "shares"])
@pytest.mark.parametrize("size", [(64, 64), (37, 51), (1, 1)], ids=str)
def test_the_discriminator_scores_k_features_for_each_mask_as_if_apart(size, encoding):
    torch.manual_seed(0)
    critic = Discriminator(K, FOUR, width=4, scales=2, masks=encoding).eval()
    masks = draw_masks(2, *size)
    features = [torch.randn(6, level.channels, *level.size(size)) for level in FOUR]
    together = critic(masks, features)
    assert [s.shape[:2] for s in together] == 8 * [(6, 1)]
    for number in range(3):
        apart = critic(masks, [f[2 * number : 2 * number + 2] for f in features])
        for whole, part in zip(together, apart, strict=True):
            torch.testing.assert_close(whole[2 * number : 2 * number + 2], part, rtol=1e-4, atol=1e-5)
    # The mask is heard: the same features with the masks swapped score otherwise.
    assert size == (1, 1) or not torch.allclose(critic(masks.flip(0), features)[0], together[0])


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (64, 32)], ids=str)
def test_the_latent_encoder_takes_any_size(size):
    encoder = LatentEncoder(FOUR, latent_dim=8, width=4)
    mean, log_variance = encoder([torch.randn(3, level.channels, *size) for level in FOUR])
    assert mean.shape == log_variance.shape == (3, 8)
    wild = encoder([torch.full((1, level.channels, *size), 1e9) for level in FOUR])[1]
    assert wild.abs().max() <= 10
