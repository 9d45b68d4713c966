"""Open any value that a module may return: what pytree knows, other mappings, dataclasses, plain objects with attributes."""

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
    """What stands for a tensor in the structures of others: never opened."""


# Objects that are looked at behind a leaf.
_MAX_OBJECTS = 10_000

# Opened no further: they hold no tensor of a forward pass, or are none of our business.
_NEVER_OPENED = (
    type(None), bool, int, float, complex, str, bytes, range, slice, enum.Enum, torch.dtype, torch.device, torch.Size, torch.layout,
    torch.memory_format, torch.Generator, Leaf, type, ModuleType, FunctionType, MethodType, nn.Module,
)  # fmt: skip

Rebuild = Callable[[list[Any]], Any]


def flatten(value: Any) -> tuple[list[Any], Rebuild]:
    """The leaves of a value, and a function that puts other leaves into the same structure.

    Beyond pytree's own containers this opens subclasses of mappings and sequences, dataclasses, and objects that keep tensors as attributes.
    Of these ``rebuild`` makes shallow copies: the value itself is never written to. An object that occurs in itself is opened once.

    Source:
        Ours; pytree takes whatever it does not know for a leaf (pytorch #124666).
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
    """The types of the leaves that hold tensors which cannot be found: iterators, functions and other objects that refer to a tensor."""
    kinds = [type(leaf).__name__ for leaf in leaves_of(value) if isinstance(leaf, Iterator) or _refers_to_tensors(leaf)]
    return list(dict.fromkeys(kinds))


def _refers_to_tensors(leaf: Any) -> bool:
    """Whether an object that was not opened refers to a tensor, directly or through others."""
    if isinstance(leaf, (Tensor, Leaf, nn.Module, type, ModuleType)):
        return False
    seen: set[int] = set()
    waiting = [leaf]
    while waiting and len(seen) < _MAX_OBJECTS:
        item = waiting.pop()
        if id(item) in seen or isinstance(item, (nn.Module, type, ModuleType)):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            return True
        # Of a function what it encloses, and not all that its module holds.
        waiting += [*(item.__closure__ or ()), *(item.__defaults__ or ())] if isinstance(item, FunctionType) else gc.get_referents(item)
    return False


def _open(value: Any, leaves: list[Any], above: frozenset[int]) -> Callable[[Any], Any]:
    """Append the leaves of ``value``; the function that rebuilds it takes its leaves from an iterator."""
    if isinstance(value, (Tensor, *_NEVER_OPENED)) or id(value) in above:
        return _leaf(value, leaves)
    above = above | {id(value)}
    children, structure = pytree.tree_flatten(value, is_leaf=lambda item: item is not value)
    if len(children) != 1 or children[0] is not value:
        parts = [_open(child, leaves, above) for child in children]
        return lambda new: pytree.tree_unflatten([part(new) for part in parts], structure)
    if isinstance(value, Mapping):
        return _open_items(value, list(value.items()), leaves, above, _with_items)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _open_items(value, list(enumerate(value)), leaves, above, _with_elements)
    if dataclasses.is_dataclass(value):
        named = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value) if hasattr(value, field.name)]
        return _open_items(value, named, leaves, above, _with_attributes)
    named = _attributes(value)
    return _open_items(value, named, leaves, above, _with_attributes) if named and not callable(value) else _leaf(value, leaves)


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
    above: frozenset[int],
    put: Callable[[Any, dict[Any, Any]], Any],
) -> Callable[[Any], Any]:
    parts = {key: _open(item, leaves, above) for key, item in items}
    return lambda new: put(value, {key: part(new) for key, part in parts.items()})


def _with_items(value: Any, items: dict[Any, Any]) -> Any:
    made = copy.copy(value)
    try:
        for key, item in items.items():
            made[key] = item
    except TypeError:
        return items  # a mapping that cannot be written to
    return made


def _with_elements(value: Any, items: dict[Any, Any]) -> Any:
    return type(value)(items.values())


def _with_attributes(value: Any, items: dict[Any, Any]) -> Any:
    made = copy.copy(value)
    for name, item in items.items():
        # A frozen dataclass refuses setattr.
        object.__setattr__(made, name, item)
    return made
