"""Shares of classes in cells against counting."""

import pytest
import torch

from feataug.generation.layers.class_shares import class_shares


@pytest.mark.parametrize(("size", "stride"), [((16, 24), 8), ((17, 23), 4), ((1, 1), 16), ((30, 45), 14)])
def test_shares_are_counts_over_areas(size, stride):
    rng = torch.Generator().manual_seed(stride)
    masks = torch.randint(-1, 5, (2, *size), generator=rng)
    masks[masks == 4] = 255
    shares = class_shares(masks, 4, stride)
    assert shares.shape == (2, 5, -(-size[0] // stride), -(-size[1] // stride))
    for y in range(shares.shape[2]):
        for x in range(shares.shape[3]):
            cell = masks[:, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride].flatten(1)
            expected = torch.stack([(cell == k).float().mean(1) for k in range(4)], dim=1)
            torch.testing.assert_close(shares[:, :4, y, x], expected)
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))
