"""The convolution of label maps against a slow oracle, and the contract of the critics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from feataug.critics import Discriminator, LatentEncoder
from feataug.layers.label_conv import LabelConv2d
from feataug.specs import FeatureSpec, LevelSpec

K, VOID = 11, 255
FOUR = FeatureSpec((LevelSpec("a", 4, 4), LevelSpec("b", 6, 8), LevelSpec("c", 5, 16), LevelSpec("d", 3, 32)))


def draw_masks(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(K, shape, generator=rng)
    return masks.masked_fill(torch.rand(shape, generator=rng) < 0.1, VOID)


def label_conv_oracle(layer: LabelConv2d, labels):
    """Each tap inside the image adds the weight of the class that it sees."""
    size, reach = layer.weight.shape[-1], layer.padding
    batch, rows, columns = labels.shape
    result = []
    for b in range(batch):
        for y in range(0, rows, layer.stride):
            for x in range(0, columns, layer.stride):
                total = layer.bias.clone()
                for i in range(size):
                    for j in range(size):
                        v, u = y + i * layer.dilation - reach, x + j * layer.dilation - reach
                        if 0 <= v < rows and 0 <= u < columns:
                            total = total + layer.weight[:, int(labels[b, v, u]), i, j]
                result.append(total)
    shape = (batch, -(-rows // layer.stride), -(-columns // layer.stride), -1)
    return torch.stack(result).view(shape).permute(0, 3, 1, 2)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3, 5]), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_label_conv_looks_up_every_tap(rows, columns, kernel, stride, dilation, seed):
    torch.manual_seed(seed)
    layer = LabelConv2d(4, 3, kernel, stride=stride, dilation=dilation)
    nn.init.normal_(layer.bias)
    labels = torch.randint(5, (2, rows, columns))
    with torch.no_grad():
        torch.testing.assert_close(layer(labels), label_conv_oracle(layer, labels), rtol=1e-4, atol=1e-5)


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
