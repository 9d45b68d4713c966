"""Spectral norms of many layers at once, against singular values and torch's own parametrization."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from feataug.generation.layers.spectral_norm import SpectralConv2d, normalized_together, normalized_weights

SHAPES = [(3, 8), (8, 8), (8, 4), (3, 8)]


def critic(seed=0, scale=1.0):
    torch.manual_seed(seed)
    layers = nn.Sequential(*[SpectralConv2d(inputs, out, 3, padding=1) for inputs, out in SHAPES])
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.weight.mul_(scale * (number + 1))
    return layers


def norms(weights):
    return [float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2)) for weight in weights]


def settle(layers):
    for _ in range(200):
        normalized_weights(list(layers))


@pytest.mark.parametrize("scale", [1.0, 1e-3, 50.0])
def test_the_largest_singular_value_becomes_one(scale):
    layers = critic(scale=scale)
    assert max(abs(norm - 1) for norm in norms([layer.weight for layer in layers])) > 0.1, "nothing to normalise"
    settle(layers)
    assert norms(normalized_weights(list(layers))) == pytest.approx([1.0] * len(SHAPES), rel=1e-3)


def test_weights_and_gradients_are_those_of_torch():
    layers = critic().double()
    settle(layers)
    found = normalized_weights(list(layers))
    for layer, weight in zip(layers, found, strict=True):
        conv = nn.Conv2d(layer.in_channels, layer.out_channels, 3).double()
        conv.weight = nn.Parameter(layer.weight.detach().clone())
        spectral_norm(conv, n_power_iterations=200)
        expected, grad = conv.weight, torch.randn_like(weight)
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-7)
        ours = torch.autograd.grad(weight, layer.weight, grad, retain_graph=True)[0]
        theirs = torch.autograd.grad(expected, conv.parametrizations.weight.original, grad)[0]
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_step_of_the_iteration_is_that_of_torch():
    """Before it has ended, with weights that changed since."""
    layer = SpectralConv2d(3, 8, 3).double()
    with torch.no_grad():
        layer.weight += torch.randn_like(layer.weight)
    conv = spectral_norm(nn.Conv2d(3, 8, 3).double())
    with torch.no_grad():
        conv.parametrizations.weight.original.copy_(layer.weight)
        norm = conv.parametrizations.weight[0]
        # torch keeps v from its last step; here it is computed from u.
        norm._v.copy_(nn.functional.normalize(layer.weight.flatten(1).T @ layer.u, dim=0))
        before = layer.u.clone()
    normalized_weights([layer])
    conv(torch.zeros(1, 3, 4, 4).double())
    assert not torch.allclose(layer.u, before)
    torch.testing.assert_close(layer.u, norm._u)


def test_together_they_are_computed_once_and_what_each_computes_alone(monkeypatch):
    first, second = critic(0), critic(1)
    alone = [copy.deepcopy(module) for module in (first, second)]
    features = torch.randn(2, 3, 6, 6)
    calls = []
    own = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda *given: calls.append(1) or own(*given))
    expected = [first_layer(features) for first_layer in (alone[0][0], alone[1][0])]
    calls.clear()
    with normalized_together(first, second):
        # Three shapes in both.
        assert len(calls) == 3
        for _ in range(3):
            for module, wanted in zip((first, second), expected, strict=True):
                torch.testing.assert_close(module[0](features), wanted)
        assert len(calls) == 3
    first[0](features)
    assert len(calls) == 4


def test_weights_learn_from_their_own_loss_alone():
    """Inside, a critic may first be judge of a generator, whose loss is differentiated before its own."""
    module, features = critic(), torch.randn(2, 3, 6, 6, requires_grad=True)
    with normalized_together(module):
        module.requires_grad_(False)
        module[0](features).sum().backward()
        assert features.grad is not None
        assert module[0].weight.grad is None
        module.requires_grad_(True)
        module[0](features.detach()).square().sum().backward()
    assert module[0].weight.grad.abs().sum() > 0


def test_they_are_forgotten_after_an_error():
    module = critic()
    with pytest.raises(KeyError), normalized_together(module):
        raise KeyError
    assert all(layer.normalized is None for layer in module)


def test_evaluation_changes_nothing():
    module = critic().eval()
    before = copy.deepcopy(module.state_dict())
    module[0](torch.randn(1, 3, 5, 5))
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_norms_are_computed_in_full_precision_under_autocast():
    module = critic()
    settle(module)
    module.eval()
    with torch.autocast("cpu", torch.bfloat16):
        (weight,) = normalized_weights([module[0]])
        assert module[0](torch.randn(1, 3, 5, 5)).dtype == torch.bfloat16
    assert norms([weight]) == pytest.approx([1.0], rel=1e-3)


def test_checkpoints_with_torchs_parametrization_are_read_and_their_optimizers():
    torch.manual_seed(0)
    old = nn.Sequential(spectral_norm(nn.Conv2d(3, 8, 3)), nn.LeakyReLU(), spectral_norm(nn.Conv2d(8, 4, 3)), nn.Conv2d(4, 1, 1))
    new = nn.Sequential(SpectralConv2d(3, 8, 3), nn.LeakyReLU(), SpectralConv2d(8, 4, 3), nn.Conv2d(4, 1, 1))
    # An optimizer's state is kept by the parameters' order.
    assert [parameter.shape for parameter in new.parameters()] == [parameter.shape for parameter in old.parameters()]
    new.load_state_dict(old.state_dict())
    features = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(new.eval()(features), old.eval()(features), rtol=1e-3, atol=1e-5)
