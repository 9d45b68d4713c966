"""Seed every generator that transforms may draw from, for one item, and restore it afterwards."""

from __future__ import annotations

import functools
import random
import types
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from feataug.core.attributes import slots_of
from feataug.core.rng import derive_seed, preserved_rng

# Limits of the search for generators: a pipeline of transforms is small, but a data set may be large.
_DEPTH = 12
_OBJECTS = 4096
_ITEMS = 64
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_LEAVES = (str, bytes, int, float, complex, torch.Tensor, np.ndarray, np.generic, Path, type, types.ModuleType, types.BuiltinFunctionType)

# The most common leaves by exact type, to skip most attributes fast.
_PLAIN = frozenset((str, bytes, int, float, bool, type(None), torch.Tensor, np.ndarray, type))
# Attributes that torch keeps in every module, except its submodules.
_OF_MODULES = frozenset(torch.nn.Module().__dict__) - {"_modules"}


def generators_in(*roots: Any) -> list[Any]:
    """The generators that objects keep for themselves, such as those of albumentations' transforms, in a fixed order.

    The search covers attributes, short lists and dictionaries, and what functions refer to: closures, defaults, names of their
    module. The global generators of torch, numpy and ``random`` are left out, because ``seeded`` always covers them.

    Args:
        roots: Data sets and transforms to search.
    """
    found: list[Any] = []
    common = {id(item) for item in (torch.default_generator, np.random.mtrand._rand, getattr(random, "_inst", None))}
    visited: set[int] = set()
    queue = deque((root, 0) for root in roots)
    # Keeps visited objects alive, because the id of a deleted one could be used again.
    alive: list[Any] = []
    while queue and len(alive) < _OBJECTS:
        value, depth = queue.popleft()
        if value is None or isinstance(value, _LEAVES) or id(value) in visited:
            continue
        visited.add(id(value))
        alive.append(value)
        if isinstance(value, _GENERATORS):
            if id(value) not in common and not isinstance(value, random.SystemRandom):
                found.append(value)
        elif depth < _DEPTH:
            queue.extend((child, depth + 1) for child in _children(value) if type(child) not in _PLAIN)
    return found


def _children(value: Any) -> Sequence[Any]:
    """The objects that an object refers to."""
    if isinstance(value, dict):
        return list(value.values()) if len(value) <= _ITEMS else ()
    if isinstance(value, (list, tuple)):
        return value if len(value) <= _ITEMS else ()
    if isinstance(value, types.FunctionType):
        return _referenced(value)
    if isinstance(value, types.MethodType):
        return (value.__self__, value.__func__)
    if isinstance(value, functools.partial):
        return (value.func, value.args, value.keywords)
    attributes = getattr(value, "__dict__", None)
    if isinstance(value, torch.nn.Module):
        found = [child for name, child in value.__dict__.items() if name not in _OF_MODULES]
    else:
        found = list(attributes.values()) if isinstance(attributes, dict) else []
    return found + [child for name in slots_of(type(value)) if (child := getattr(value, name, None)) is not None]


def _referenced(function: types.FunctionType) -> list[Any]:
    """The objects that a function's code refers to, including other functions of its package."""
    found: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # the cell is still empty
            continue
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        found += [function.__globals__[name] for name in code.co_names if name in function.__globals__]
        codes += [part for part in code.co_consts if isinstance(part, types.CodeType)]
    # Functions of other packages keep no generator that a user's transform would draw from by name.
    return [item for item in found if not _from_other_package(item, function)]


def _from_other_package(item: Any, function: types.FunctionType) -> bool:
    return isinstance(item, types.FunctionType) and item.__module__.partition(".")[0] != function.__module__.partition(".")[0]


@contextmanager
def preserved_global_rng(device: torch.device | str = "cpu") -> Iterator[None]:
    """Restore the global generators of torch (of the CPU and one device), numpy and ``random`` afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with preserved_rng(device):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def seeded(seed: int, generators: Sequence[Any] = ()) -> Iterator[None]:
    """Seed the global CPU generators of torch, numpy and ``random``, and further generators; restore all of them at the end.

    Args:
        seed: Seeds torch. The other generators get seeds that are derived from it.
        generators: Further generators, as ``generators_in`` finds them.
    """
    states = [_state(generator) for generator in generators]
    try:
        with preserved_global_rng():
            # torch.manual_seed would also seed every GPU, so that a training loop's dropout would depend on the data.
            torch.default_generator.manual_seed(seed)
            np.random.seed(derive_seed(seed, "numpy") % 2**32)
            random.seed(derive_seed(seed, "random"))
            for number, generator in enumerate(generators):
                _reseed(generator, derive_seed(seed, "own", number))
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            _restore(generator, state)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _reseed(generator: Any, seed: int) -> None:
    if isinstance(generator, np.random.Generator):
        kind: Any = type(generator.bit_generator)
        generator.bit_generator.state = kind(seed).state
    elif isinstance(generator, np.random.RandomState):
        generator.seed(seed % 2**32)
    elif isinstance(generator, random.Random):
        generator.seed(seed)
    else:
        generator.manual_seed(seed)
