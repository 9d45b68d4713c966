"""Spectral norms of a critic's convolutions: all of them at once, and once a training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Of the power iteration, before the first step. Every step adds one.
FIRST_ITERATIONS = 15
# Where torch.nn.utils.parametrizations.spectral_norm keeps what is ``weight`` and ``u`` here.
OLD_NAMES = {"parametrizations.weight.original": "weight", "parametrizations.weight.0._u": "u"}


class SpectralConv2d(nn.Conv2d):
    """A convolution whose weight is divided by its largest singular value.

    In training mode each forward pass improves the estimate of that value by a step of a power iteration. ``normalized_together`` computes
    the weights of many such layers at once, for all forward passes inside it.

    Args:
        args, kwargs: As in ``Conv2d``.

    Source:
        Miyato et al. (2018), Spectral normalization for generative adversarial networks. torch's own ``spectral_norm`` treats one layer at a time:
        some 14 kernels for each layer and forward pass.
    """

    u: Tensor
    normalized: Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # After the bias, as in files of optimizers that were saved with torch's parametrization.
        self.register_parameter("weight", self._parameters.pop("weight"))
        self.register_buffer("u", nn.functional.normalize(torch.randn(self.out_channels), dim=0))
        matrices, u = _stacked([self])
        for _ in range(FIRST_ITERATIONS):
            u = _iterate([self], matrices, u)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(B, in_channels, H, W)`` as in ``Conv2d``."""
        weight = self.normalized
        if weight is None:
            (weight,) = normalized_weights([self])
        # A critic that does not learn is part of the generator's loss: its weights need no gradient, and keep theirs for their own loss.
        return self._conv_forward(inputs, weight if self.weight.requires_grad else weight.detach(), self.bias)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for old, new in OLD_NAMES.items():
            if prefix + old in state_dict:
                state_dict[prefix + new] = state_dict.pop(prefix + old)
        state_dict.pop(prefix + "parametrizations.weight.0._v", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


@contextmanager
def normalized_together(*modules: nn.Module) -> Iterator[None]:
    """Normalise the weights of all ``SpectralConv2d`` of ``modules`` at once, for every forward pass inside.

    Weights must not change inside. Their gradients flow through the norms, in one backward pass.
    """
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, SpectralConv2d)]
    with ExitStack() as stack:
        for layer, weight in zip(layers, normalized_weights(layers), strict=True):
            layer.normalized = weight
            stack.callback(setattr, layer, "normalized", None)
        yield


def normalized_weights(layers: list[SpectralConv2d], together: int = 1) -> list[Tensor]:
    """The weights of ``layers``, each divided by its largest singular value, after a step of the power iteration for those in training mode.

    Args:
        layers: In any order.
        together: So many layers that follow each other, of one shape, become one weight: ``(together * out_channels, ...)``, for a
            convolution in as many groups.
    """
    found: dict[SpectralConv2d, Tensor] = {}
    for group in _alike(layers):
        matrices, u = _stacked(group)
        if group[0].training:
            u = _iterate(group, matrices, u)
        _, _, rows, columns = group[0].weight.shape
        sizes = {"together": together, "y": rows, "x": columns}
        weights = rearrange(_DividedByNorm.apply(matrices, u), "(some together) out (y x c) -> some (together out) c y x", **sizes)
        found |= dict(zip(group[::together], weights.unbind(), strict=True))
    return [found[layer] for layer in layers[::together]]


class _DividedByNorm(torch.autograd.Function):
    """Matrices ``(L, out, in)``, each divided by ``s = |W^T u|``, which is ``u^T W v`` for the ``v`` that belongs to ``u``.

    Its gradient is that of torch's parametrization, in which ``u`` and ``v`` are constants: ``(G - <G, W / s> u v^T) / s``.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, u: Tensor) -> Tensor:
        # In full precision: it is one number.
        with torch.autocast(u.device.type, enabled=False):
            turned = torch.bmm(u[:, None], matrices)
        norms = torch.linalg.vector_norm(turned, dim=(1, 2), keepdim=True)
        normalized = matrices / norms
        ctx.save_for_backward(normalized, norms, turned, u)
        return normalized

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        normalized, norms, turned, u = ctx.saved_tensors
        along = (grad * normalized).sum(dim=(1, 2), keepdim=True) / norms
        return torch.baddbmm(grad, u[:, :, None] * along, turned, alpha=-1) / norms, None


@torch.no_grad()
def _iterate(layers: list[SpectralConv2d], matrices: Tensor, u: Tensor) -> Tensor:
    """Bring ``u`` of each layer nearer to its first left singular vector, and return them all."""
    with torch.autocast(u.device.type, enabled=False):
        turned = torch.bmm(matrices, torch.bmm(u[:, None], matrices).transpose(1, 2))[..., 0]
    u = turned / torch.linalg.vector_norm(turned, dim=1, keepdim=True)
    # For all at once, and copied: no graph holds a layer's own ``u``.
    torch._foreach_copy_([layer.u for layer in layers], list(u.unbind()))
    return u


def _alike(layers: list[SpectralConv2d]) -> list[list[SpectralConv2d]]:
    """Layers with weights of one shape and in the same mode, in groups."""

    def kind(layer: SpectralConv2d) -> tuple[int, ...]:
        return layer.training, *layer.weight.shape

    return [list(group) for _, group in groupby(sorted(layers, key=kind), key=kind)]


def _stacked(layers: list[SpectralConv2d]) -> tuple[Tensor, Tensor]:
    """The weights as matrices ``(layers, out, in)``, and ``u``."""
    return rearrange([layer.weight for layer in layers], "layer out c y x -> layer out (y x c)"), torch.stack([layer.u for layer in layers])
