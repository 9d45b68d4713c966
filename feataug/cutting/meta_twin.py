"""A copy of a model on torch's meta device, which shows the shapes that the model makes of other images."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from feataug.core.rng import preserved_rng

# The hooks of these libraries are plain functions that keep nothing beyond a forward pass.
_TRUSTED_HOOKS = {"torch", "timm", "transformers", "accelerate"}


class MetaTwin:
    """A copy of the model's modules, hooks and attributes whose tensors have a shape but no values.

    A pass takes milliseconds for images of any size, and cannot change the model.

    Args:
        model: Any module; it stays as it is.

    Raises:
        Exception: of any kind, where the model cannot be copied, or its hooks would write to what belongs to the model.
    """

    def __init__(self, model: nn.Module) -> None:
        if any(isinstance(module, torch.jit.ScriptModule) or _shares_state(module) for module in model.modules()):
            raise ValueError("hooks that are plain functions, and parts in TorchScript, are not copied")
        known: dict[int, Any] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            empty = _on_meta(tensor)
            known[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        with _TensorsToMeta():
            self.model: nn.Module = copy.deepcopy(model, known)
        self.of = dict(zip(model.modules(), self.model.modules(), strict=True))
        self.original = {twin: module for module, twin in self.of.items()}

    @contextmanager
    def active(self) -> Iterator[None]:
        """Put the twin in the model's modes. New tensors are made on the meta device, and no gradients are recorded."""
        for module, twin in self.of.items():
            twin.training = module.training
        # A model that draws random numbers would advance the global generators.
        with preserved_rng(), torch.no_grad(), torch.device("meta"):
            yield

    @staticmethod
    def like(tensor: Tensor, shape: Any) -> Tensor:
        """A meta tensor of this shape with the dtype of ``tensor``."""
        return torch.empty(tuple(shape), dtype=tensor.dtype, device="meta")


class _TensorsToMeta(TorchFunctionMode):
    """Copies tensors that are neither parameters nor buffers to the meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = _on_meta(tensor)
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _shares_state(module: nn.Module) -> bool:
    """Whether a copy of the module might write to the model's state, because copies share plain functions."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    foreign = [hook for hook in hooks if isinstance(hook, FunctionType) and hook.__module__.partition(".")[0] not in _TRUSTED_HOOKS]
    return bool(foreign) or isinstance(module.__dict__.get("forward"), FunctionType)
