"""Atrous convolutions side by side, and labels that are no class."""

from __future__ import annotations

import pytest
import torch

from feataug.generation.layers.aspp import ASPP
from feataug.generation.layers.class_shares import with_void


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(16, 24), (13, 17), (1, 2)])
def test_equals_the_convolutions_with_stride_and_dilation(stride: int, size: tuple[int, int]) -> None:
    """Also where some dilations are multiples of the stride and others are not: outputs and gradients are those of the plain modules."""
    torch.manual_seed(0)
    layer = ASPP(5, 16, dilations=(1, 2, 3, 4), stride=stride).double()
    inputs = torch.randn(2, 5, *size, dtype=torch.float64, requires_grad=True)
    plain = torch.cat([branch(inputs) for branch in layer.branches], dim=1)
    found = torch.cat(layer._branches(inputs), dim=1)
    torch.testing.assert_close(found, plain)
    leaves = [inputs, *layer.branches.parameters()]
    weights = torch.randn_like(plain)
    for ours, wanted in zip(torch.autograd.grad(found, leaves, weights), torch.autograd.grad(plain, leaves, weights), strict=True):
        torch.testing.assert_close(ours, wanted)


def test_void_is_what_is_no_class() -> None:
    """Below and above, the largest and the smallest integers included; the given labels stay as they were."""
    masks = torch.tensor([0, 2, 3, 4, 255, -1, -100, torch.iinfo(torch.int64).max, torch.iinfo(torch.int64).min])
    before = masks.clone()
    assert with_void(masks, 3).tolist() == [0, 2, 3, 3, 3, 3, 3, 3, 3]
    assert masks.equal(before)
