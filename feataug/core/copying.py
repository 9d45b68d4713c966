"""Copies of models that ``copy.deepcopy`` refuses."""

from __future__ import annotations

import copy
import functools
import types
from typing import Any, TypeVar

from torch import Tensor, nn

from feataug.core.attributes import slots_of

Module = TypeVar("Module", bound=nn.Module)

# What deepcopy does not open, so that no tensor in it is copied.
_ATOMS = (
    type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, str, bytes, int, float, complex, bool, type(None), type(...),
)  # fmt: skip


def copy_model(model: Module) -> Module:
    """Copy a model as ``copy.deepcopy`` does, also where it keeps tensors that belong to a computation graph.

    ``deepcopy`` refuses a tensor that is no leaf of the graph. Models keep such tensors as attributes: the weight that
    ``torch.nn.utils.weight_norm`` and ``spectral_norm`` compute in each forward pass, hidden states, features kept for a loss. The copy holds
    them without a graph, with the same values.

    Args:
        model: Any module; it stays as it is.

    Returns:
        The copy. Weights, buffers, modes, hooks and attributes are those of ``copy.deepcopy``.

    Source:
        Ours.
    """
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in _in_graphs(model)}
    return copy.deepcopy(model, memo)


def _in_graphs(model: nn.Module) -> list[Tensor]:
    """The tensors that are no leaves, wherever deepcopy would meet them."""
    found, seen, waiting = [], set(), [model]
    keep: list[Any] = []  # Objects made on the way stay alive, or another could have the id of one that was seen.
    while waiting:
        value: Any = waiting.pop()
        if id(value) in seen or isinstance(value, _ATOMS):
            continue
        seen.add(id(value))
        keep.append(value)
        if isinstance(value, Tensor):
            if not value.is_leaf:
                found.append(value)
            continue
        waiting += _parts(value)
    return found


def _parts(value: Any) -> list[Any]:
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, set, frozenset)):
        parts = list(value)
    elif isinstance(value, types.MethodType):
        parts = [value.__self__]
    elif isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
    else:
        parts = []
    parts += [getattr(value, name) for name in slots_of(type(value)) if hasattr(value, name)]
    own = getattr(value, "__dict__", None)
    return parts + (list(own.values()) if isinstance(own, dict) else [])
