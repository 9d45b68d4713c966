"""Modulated norms: computed at once, they are what each norm's own formula says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks.kernel_count import KernelCount
from feataug.generation.layers.norm import ModulatedNorm, modulations, no_modulation
from feataug.generation.layers.unet import UNet

WIDTHS, SIZES, LABELS, LATENT = (8, 12, 8, 16), ((6, 8), (6, 8), (3, 4), (3, 4)), 5, 3


def oracle(norm, inputs, z, shares):
    """One norm by itself: scale and shift from ``z``, and from the classes of each cell."""
    scale, shift = F.linear(z, norm.modulation.weight, norm.modulation.bias)[:, :, None, None].chunk(2, dim=1)
    if norm.table is not None:
        local = torch.einsum("kc,bkhw->bchw", norm.table, shares)
        scale, shift = scale + local[:, : scale.shape[1]], shift + local[:, scale.shape[1] :]
    return norm.norm(inputs) * (1 + scale) + shift


def make(labels):
    torch.manual_seed(0)
    norms = [ModulatedNorm(width, LATENT, labels) for width in WIDTHS]
    for norm in norms:
        for parameter in norm.parameters():
            torch.nn.init.normal_(parameter)
    shares = {size: torch.rand(2, LABELS, *size) if labels else None for size in set(SIZES)}
    inputs = [torch.randn(2, width, *size) for width, size in zip(WIDTHS, SIZES, strict=True)]
    return norms, inputs, torch.randn(2, LATENT, requires_grad=True), [shares[size] for size in SIZES]


@pytest.mark.parametrize("labels", [0, LABELS])
def test_all_at_once_are_what_each_is_alone(labels):
    norms, inputs, z, shares = make(labels)
    together = modulations(norms, z, shares, no_modulation(norms))
    found = [norm(maps, part) for norm, maps, part in zip(norms, inputs, together, strict=True)]
    expected = [oracle(norm, maps, z, part) for norm, maps, part in zip(norms, inputs, shares, strict=True)]
    learned = [z, *(parameter for norm in norms for parameter in norm.parameters())]
    grads = [torch.randn_like(maps) for maps in inputs]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(*(torch.autograd.grad(maps, learned, grads) for maps in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_one_norm_too_many_costs_no_matrix_product():
    norms, _, z, shares = make(0)
    counts = []
    for some in (norms[:2], norms):
        with KernelCount() as count:
            modulations(some, z, shares[: len(some)], no_modulation(some))
        counts.append(count.operators["addmm"])
    assert counts == [1, 1]


@pytest.mark.parametrize("modulation", ["none", "latent", "class"])
def test_a_unet_finds_the_norms_of_every_scale(modulation):
    torch.manual_seed(0)
    net = UNet(4, (6, 5), (0, 1), widths=(8, 8, 16), latent_dim=LATENT, modulation=modulation, num_labels=LABELS)
    norms = net.modulated_norms
    assert len(norms) == (0 if modulation == "none" else 2 * 3 + 2 * 2 + 2)
    assert {norm for norm, _ in norms} == {m for m in net.modules() if isinstance(m, ModulatedNorm) and m.modulation is not None}
    code, z, shares = torch.randn(2, 4, 11, 14), torch.randn(2, LATENT, requires_grad=True), torch.rand(2, LABELS, 11, 14, requires_grad=True)
    for norm, _ in norms:
        if norm.table is not None:
            torch.nn.init.normal_(norm.table)
    outputs = net(code, z, shares)
    assert [out.shape for out in outputs] == [(2, 6, 11, 14), (2, 5, 6, 7)]
    # Every norm depends on the noise, and on the shares where it should.
    sum(out.square().sum() for out in outputs).backward()
    assert all(norm.modulation.weight.grad.abs().sum() > 0 for norm, _ in norms)
    assert z.grad.abs().sum() > 0
    assert (shares.grad is not None) == (modulation == "class")
    # A part of the network that is no weight: it is not saved.
    assert "plain" not in net.state_dict()
