"""Describe what a run depends on (data, mask sources, transforms, losses) by plain values that are stored with it."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DistributedSampler, RandomSampler, SequentialSampler

from feataug.core.distributed import rank_and_world
from feataug.core.fingerprints import digest_of, files_of, fingerprint, spread, text_of, values_of

# Longer texts and lists are stored as a digest.
_LONG, _MANY = 1000, 64
_DEPTH, _ITEMS = 8, 8
# Common names of the settings that decide a data set's items.
_DATA_SETTINGS = ("seed", "size", "crowd", "num_images", "num_classes", "split", "image_set", "mode", "year", "fold", "void", "ignore_index")
_TRANSFORMS = ("transforms", "transform", "target_transform")


def architecture(module: nn.Module) -> dict[str, Any]:
    """A module's class, settings and shapes, without the values of its weights."""
    state = {name: tuple(value.shape) for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    known = ("num_classes", "latent_dim", "ignore_index", "modulation", "steps")
    settings = {name: _plain(getattr(module, name)) for name in known if hasattr(module, name)}
    return {"class": _name(module)} | settings | {"shapes": digest_of(text_of(_plain(state)).encode())}


def describe_data(loader: Any, *, measured: bool = False) -> dict[str, Any] | None:
    """The data set of a loader and how it is read: files, length, classes, transforms, batch size, order and seed.

    Args:
        loader: A ``DataLoader``, or anything with a ``dataset``; any object with a ``settings()`` that returns a dictionary.
        measured: The loader is only read to measure, so that batch size and order do not matter.

    Returns:
        Plain values; ``None`` for no loader, and an empty dictionary for an iterable without a description.
    """
    if loader is None:
        return None
    own = _settings(loader)
    if own is not None:
        return {"class": _name(loader)} | own
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        return {}
    if callable(getattr(getattr(loader, "batch_sampler", None), "start", None)):
        # seeded_loader wraps the data set; the wrapper follows from the seed.
        dataset = getattr(dataset, "dataset", dataset)
    order = _order(loader)
    kept = ("drop_last",) if measured else tuple(order)
    return {"dataset": describe_dataset(dataset)} | {name: order[name] for name in kept if name in order}


def describe_dataset(dataset: Any, depth: int = 0) -> dict[str, Any]:
    """A data set's class, length, classes, files, transforms and settings; or its own ``settings()``, if it has that method.

    Files are identified by their names below a common folder, sizes and some of their content, so a data set may be moved.
    """
    found: dict[str, Any] = {"class": _name(dataset)}
    own = _settings(dataset)
    if own is not None or depth > _DEPTH:
        return found | (own or {})
    if isinstance(dataset, (Tensor, np.ndarray)):
        return found | values_of(dataset)
    if hasattr(dataset, "__len__"):
        found["length"] = len(dataset)
    if isinstance(dataset, (list, tuple)):
        items = [_plain(item, _DEPTH - 1) for item in spread(dataset, _ITEMS)]
        return found | {"items": digest_of(text_of(items).encode())}
    inner = getattr(dataset, "dataset", None)
    if inner is not None:
        found["dataset"] = describe_dataset(inner, depth + 1)
        indices = getattr(dataset, "indices", None)
        found |= {} if indices is None else {"indices": digest_of(text_of(_listed(indices)).encode())}
    for name in ("datasets", "tensors"):
        parts = getattr(dataset, name, None)
        if isinstance(parts, (list, tuple)):
            found[name] = [describe_dataset(part, depth + 1) for part in parts]
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, Sequence):
        found["classes"] = _plain(list(classes))
    attributes = vars(dataset) if hasattr(dataset, "__dict__") else {}
    for name in _DATA_SETTINGS:
        if name in attributes and _is_plain(attributes[name]):
            found[name] = _plain(attributes[name])
    for name in _TRANSFORMS:
        if name in attributes:
            found[name] = describe_callable(attributes[name])
    files = {name: files_of(value) for name, value in attributes.items() if _are_files(value)}
    return found | ({"files": files} if files else {})


def describe_masks(source: Any) -> dict[str, Any]:
    """A mask source's class and its ``settings()``, if it has that method. Inner sources are part of the settings."""
    return {"class": _name(source)} | (_settings(source) or {})


def describe_callable(function: Any, depth: int = 0) -> Any:
    """A transform, loss or score: its name and the plain values that it was made with. Unknown values are left out."""
    if function is None or depth > _DEPTH:
        return None
    own = _settings(function)
    if own is not None:
        return {"class": _name(function)} | own
    if isinstance(function, functools.partial):
        return {
            "partial": describe_callable(function.func, depth + 1),
            "args": _plain(list(function.args), depth + 1),
            "keywords": _plain(dict(function.keywords), depth + 1),
        }
    if inspect.ismethod(function):
        return {"method": function.__func__.__qualname__, "of": describe_callable(function.__self__, depth + 1)}
    if inspect.isroutine(function) or inspect.isclass(function):
        return {"function": getattr(function, "__qualname__", repr(type(function)))} | _closure(function, depth)
    found: dict[str, Any] = {"class": _name(function)}
    if isinstance(function, nn.Module):
        return _module(function, depth) | ({"weights": fingerprint(function)} if function.state_dict() else {})
    if type(function).__repr__ is not object.__repr__:
        return found | {"repr": _short(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(function)))}
    return found | _public(function, depth)


def describe_filter(pixel_filter: Any) -> Any:
    """A pixel filter: the weights of its reference model and its bounds. Other callables are described by ``describe_callable``."""
    model, bounds = getattr(getattr(pixel_filter, "cut", None), "model", None), getattr(pixel_filter, "class_loss", None)
    if not isinstance(model, nn.Module) or not isinstance(bounds, Tensor):
        return describe_callable(pixel_filter)
    return {"class": _name(pixel_filter), "reference": fingerprint(model), "class_loss": values_of(bounds)}


def _order(loader: Any) -> dict[str, Any]:
    """A loader's batch size (over all processes), seed and order."""
    batches = getattr(loader, "batch_sampler", None)
    found = {name: _plain(getattr(batches, name)) for name in ("batch_size", "seed", "shuffle", "drop_last") if hasattr(batches, name)}
    sampler = getattr(loader, "sampler", None)
    if "shuffle" not in found and isinstance(sampler, (SequentialSampler, RandomSampler, DistributedSampler)):
        found["shuffle"] = getattr(sampler, "shuffle", isinstance(sampler, RandomSampler))
    if "seed" not in found and found.get("shuffle"):
        generator = getattr(loader, "generator", None)
        seed = getattr(sampler, "seed", None) if generator is None else generator.initial_seed()
        found |= {} if seed is None else {"seed": seed}
    if isinstance(found.get("batch_size"), int):
        found["batch_size"] *= rank_and_world()[1]
    return found


def _closure(function: Any, depth: int) -> dict[str, Any]:
    """The plain values in a function's closure."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    found = {}
    for name, cell in zip(names, cells, strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # the cell is still empty
            continue
        if _is_plain(value) or isinstance(value, (Tensor, np.ndarray)) or callable(value):
            found[name] = _plain(value, depth + 1)
    return {"closure": found} if found else {}


def _module(module: nn.Module, depth: int) -> dict[str, Any]:
    parts = {name: _module(child, depth + 1) for name, child in module.named_children()} if depth <= _DEPTH else {}
    return {"class": _name(module)} | _public(module, depth) | parts


def _public(value: Any, depth: int) -> dict[str, Any]:
    attributes = vars(value).items() if hasattr(value, "__dict__") else ()
    return {name: _plain(item, depth + 1) for name, item in attributes if not name.startswith("_") and name != "training"}


def _settings(value: Any) -> dict[str, Any] | None:
    """What an object's method ``settings()`` returns; ``None`` without such a method."""
    method = None if inspect.isclass(value) else getattr(value, "settings", None)
    if not inspect.ismethod(method):
        return None
    parameters = inspect.signature(method).parameters.values()
    if any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return None
    found = method()
    return {str(name): _plain(item) for name, item in found.items()} if isinstance(found, Mapping) else None


def _plain(value: Any, depth: int = 0) -> Any:
    """A setting as plain values for JSON; for an unknown object, its class."""
    if value is None or isinstance(value, (bool, int, float)):
        return value if value == value else "nan"
    if isinstance(value, str):
        return _short(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, (torch.dtype, torch.device, torch.Size, np.dtype)):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return value.name
    if isinstance(value, (Tensor, np.ndarray)):
        return values_of(value)
    if depth > _DEPTH:
        return _name(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        listed = [_plain(item, depth + 1) for item in value]
        return listed if len(listed) <= _MANY else {"length": len(listed), "digest": digest_of(text_of(listed).encode())}
    if isinstance(value, (set, frozenset)):
        return sorted((_plain(item, depth + 1) for item in value), key=text_of)
    if callable(value):
        return describe_callable(value, depth)
    return {"class": _name(value)}


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (list, tuple)):
        return depth < _DEPTH and all(_is_plain(item, depth + 1) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, Enum, np.generic, torch.dtype))


def _are_files(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    first = value[0][0] if isinstance(value[0], (list, tuple)) and value[0] else value[0]
    return isinstance(first, Path) or (isinstance(first, str) and (os.sep in first or bool(Path(first).suffix)))


def _listed(indices: Any) -> Any:
    return indices.tolist() if hasattr(indices, "tolist") else list(indices)


def _short(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:80]}... {digest_of(text.encode())}"


def _name(value: Any) -> str:
    return type(value).__qualname__
