"""Copy models that ``copy.deepcopy`` refuses."""

from __future__ import annotations

import copy
import functools
import types
from typing import Any, TypeVar

from torch import Tensor, nn

from feataug.core.attributes import slots_of

Module = TypeVar("Module", bound=nn.Module)

# Types that deepcopy does not open, so that it copies no tensor in them.
_ATOMS = (
    type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, str, bytes, int, float, complex, bool, type(None), type(...),
)  # fmt: skip


def copy_model(model: Module) -> Module:
    """Copy a model as ``copy.deepcopy`` does, even if it keeps tensors that belong to a computation graph.

    ``deepcopy`` refuses a tensor that is no leaf of the graph. Models keep such tensors as attributes: the weight that
    ``torch.nn.utils.weight_norm`` and ``spectral_norm`` compute in each forward pass, hidden states, features for a loss. The copy
    has the same values without the graph.

    Args:
        model: Any module; it is not changed.

    Returns:
        The copy, with the weights, buffers, modes, hooks and attributes that ``copy.deepcopy`` would give it.
    """
    memo: dict[int, Any] = {id(tensor): tensor.detach().clone() for tensor in _in_graphs(model)}
    return copy.deepcopy(model, memo)


def _in_graphs(model: nn.Module) -> list[Tensor]:
    """The tensors that are no leaves of a graph, in everything that deepcopy would visit."""
    found, visited, pending = [], set(), [model]
    alive: list[Any] = []  # Keeps temporary objects alive, because the id of a deleted one could be used again.
    while pending:
        value: Any = pending.pop()
        if id(value) in visited or isinstance(value, _ATOMS):
            continue
        visited.add(id(value))
        alive.append(value)
        if isinstance(value, Tensor):
            if not value.is_leaf:
                found.append(value)
            continue
        pending += _parts(value)
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
