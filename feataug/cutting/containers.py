"""Find the tensors in any value that a module may return: containers, mappings, dataclasses and objects with attributes."""

from __future__ import annotations

import copy
import dataclasses
import enum
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from feataug.core.attributes import slots_of


class Leaf:
    """Base of the objects that replace a tensor in a structure; never opened."""


# At most so many objects are visited in search of the tensors that a leaf refers to.
_MAX_OBJECTS = 10_000

# Leaves: these types hold no tensor that a forward pass made.
_NEVER_OPENED = (
    type(None), bool, int, float, complex, str, bytes, range, slice, enum.Enum, torch.dtype, torch.device, torch.Size, torch.layout,
    torch.memory_format, torch.Generator, Leaf, type, ModuleType, FunctionType, MethodType, nn.Module,
)  # fmt: skip

Rebuild = Callable[[list[Any]], Any]


def flatten(value: Any) -> tuple[list[Any], Rebuild]:
    """The leaves of a value, and a function that puts other leaves into the same structure.

    Besides pytree's containers this opens subclasses of mappings and sequences, dataclasses, and objects that keep tensors as
    attributes. ``rebuild`` makes shallow copies of these and never writes to the value itself. An object that contains itself is
    opened once.

    Source:
        Ours; pytree treats every type that it does not know as a leaf (pytorch #124666).
    """
    leaves: list[Any] = []
    rebuild = _open(value, leaves, frozenset())
    return leaves, lambda new: rebuild(iter(new))


def leaves_of(value: Any) -> list[Any]:
    """The leaves of a value, as ``flatten`` finds them."""
    return flatten(value)[0]


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in a value."""
    return [leaf for leaf in leaves_of(value) if isinstance(leaf, Tensor)]


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The same value with ``function`` applied to its tensors."""
    leaves, rebuild = flatten(value)
    return rebuild([function(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves])


def opaque_types(value: Any) -> list[str]:
    """The types of the leaves whose tensors cannot be found: iterators, and functions and other objects that refer to a tensor."""
    kinds = [type(leaf).__name__ for leaf in leaves_of(value) if isinstance(leaf, Iterator) or _refers_to_tensors(leaf)]
    return list(dict.fromkeys(kinds))


def _refers_to_tensors(leaf: Any) -> bool:
    """Whether an object that was not opened refers to a tensor, directly or through others."""
    if isinstance(leaf, (Tensor, Leaf, nn.Module, type, ModuleType)):
        return False
    visited: set[int] = set()
    pending = [leaf]
    while pending and len(visited) < _MAX_OBJECTS:
        item = pending.pop()
        if id(item) in visited or isinstance(item, (nn.Module, type, ModuleType)):
            continue
        visited.add(id(item))
        if isinstance(item, Tensor):
            return True
        # A function refers to its closure; its module's globals do not count.
        pending += [*(item.__closure__ or ()), *(item.__defaults__ or ())] if isinstance(item, FunctionType) else gc.get_referents(item)
    return False


def _open(value: Any, leaves: list[Any], ancestors: frozenset[int]) -> Callable[[Any], Any]:
    """Append the leaves of ``value``, and return a function that rebuilds it from an iterator of leaves."""
    if isinstance(value, (Tensor, *_NEVER_OPENED)) or id(value) in ancestors:
        return _leaf(value, leaves)
    ancestors = ancestors | {id(value)}
    children, structure = pytree.tree_flatten(value, is_leaf=lambda item: item is not value)
    if len(children) != 1 or children[0] is not value:
        parts = [_open(child, leaves, ancestors) for child in children]
        return lambda new: pytree.tree_unflatten([part(new) for part in parts], structure)
    if isinstance(value, Mapping):
        return _open_items(value, list(value.items()), leaves, ancestors, _with_items)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _open_items(value, list(enumerate(value)), leaves, ancestors, _with_elements)
    if dataclasses.is_dataclass(value):
        named = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value) if hasattr(value, field.name)]
        return _open_items(value, named, leaves, ancestors, _with_attributes)
    named = _attributes(value)
    return _open_items(value, named, leaves, ancestors, _with_attributes) if named and not callable(value) else _leaf(value, leaves)


def _attributes(value: Any) -> list[tuple[str, Any]]:
    kept = {name: getattr(value, name) for name in slots_of(type(value)) if hasattr(value, name)}
    return list((kept | getattr(value, "__dict__", {})).items())


def _leaf(value: Any, leaves: list[Any]) -> Callable[[Any], Any]:
    leaves.append(value)
    return next


def _open_items(
    value: Any,
    items: Iterable[tuple[Any, Any]],
    leaves: list[Any],
    ancestors: frozenset[int],
    replace: Callable[[Any, dict[Any, Any]], Any],
) -> Callable[[Any], Any]:
    parts = {key: _open(item, leaves, ancestors) for key, item in items}
    return lambda new: replace(value, {key: part(new) for key, part in parts.items()})


def _with_items(value: Any, items: dict[Any, Any]) -> Any:
    new = copy.copy(value)
    try:
        for key, item in items.items():
            new[key] = item
    except TypeError:  # an immutable mapping
        return items
    return new


def _with_elements(value: Any, items: dict[Any, Any]) -> Any:
    return type(value)(items.values())


def _with_attributes(value: Any, items: dict[Any, Any]) -> Any:
    new = copy.copy(value)
    for name, item in items.items():
        # A frozen dataclass refuses setattr.
        object.__setattr__(new, name, item)
    return new
