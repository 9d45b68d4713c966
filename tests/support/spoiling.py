"""Good arguments for the public API's calls, and ways to spoil them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

CLASSES, SIZE, CHANNELS = 5, (12, 16), 6


def masks(rng: random.Random, count: int = 3, size: tuple[int, int] = SIZE) -> Tensor:
    made = torch.randint(CLASSES, (count, *size), generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    made[:, : rng.randrange(3)] = 255
    return made


def floats(rng: random.Random, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)))


def features(rng: random.Random, count: int = 3) -> tuple[Tensor, ...]:
    return (floats(rng, count, CHANNELS, SIZE[0] // 4, SIZE[1] // 4),)


KINDS = (
    "drop", "add", "empty", "none_of_it", "one_pixel", "crop", "flat", "half", "double", "bool", "uint8", "int8", "int16", "int32", "float",
    "complex", "nan", "inf", "negative", "classes", "huge", "void", "strided", "turned", "expanded", "meta", "grad", "inference", "numpy",
    "list", "none", "text", "number", "sparse", "tuple",
)  # fmt: skip
NUMBERS = (
    -1, 0, 1, -0.5, 0.5, 1.0, 2.5, math.nan, math.inf, -math.inf, None, "3", "", True, [], (1,), 1j, 10**30, torch.tensor(1),
    np.float32(0.5), np.int64(2),
)  # fmt: skip
NAMES = ("", "head", "encoder.9", "nothing", "encoder:input", "encoder:pre_act", ":", "..", None, 3, (), ("encoder", "head"))


def spoil_tensor(value: Tensor, rng: random.Random) -> Any:
    """Another shape, dtype, content or layout; some of these are as good as before."""
    kind = rng.choice(KINDS)
    whole = not value.is_floating_point()
    filled = value.clone()
    if kind in ("nan", "inf", "negative", "classes", "huge") and value.numel():
        content = {"nan": math.nan, "inf": math.inf, "negative": -1, "classes": CLASSES, "huge": 2**40}[kind]
        if whole and kind in ("nan", "inf"):
            filled = filled.float()
        filled.view(-1)[rng.randrange(value.numel())] = content
    makers: dict[str, Callable[[], Any]] = {
        "drop": lambda: value[0],
        "add": lambda: value[:, None],
        "empty": lambda: value[:0],
        "none_of_it": lambda: value[..., :0],
        "one_pixel": lambda: value[..., :1, :1] if value.ndim > 2 else value[..., :1],
        "crop": lambda: value[..., : max(1, value.shape[-1] // 2)],
        "flat": lambda: value.flatten(),
        "half": lambda: value.half(),
        "double": lambda: value.double(),
        "bool": lambda: value.bool(),
        "uint8": lambda: value.clamp(0, 255).to(torch.uint8),
        "int8": lambda: value.to(torch.int8),
        "int16": lambda: value.to(torch.int16),
        "int32": lambda: value.to(torch.int32),
        "float": lambda: value.float(),
        "complex": lambda: value.to(torch.complex64),
        "void": lambda: torch.full_like(value, 255),
        "strided": lambda: torch.stack([value, value], -1)[..., 0],
        "turned": lambda: value.transpose(-1, -2).contiguous().transpose(-1, -2) if value.ndim > 1 else value,
        "expanded": lambda: value[:1].expand(value.shape) if len(value) else value,
        "meta": lambda: value.to("meta"),
        "grad": lambda: value.clone().requires_grad_() if value.is_floating_point() else value,
        "inference": lambda: _inference(value),
        "numpy": lambda: value.numpy(),
        "list": lambda: value.tolist(),
        "none": lambda: None,
        "text": lambda: "masks",
        "number": lambda: 3,
        "sparse": lambda: value.to_sparse(),
        "tuple": lambda: (value, value),
    }
    return makers[kind]() if kind in makers else filled


def _inference(value: Tensor) -> Tensor:
    with torch.inference_mode():
        return value.clone()


def spoil_levels(value: tuple[Tensor, ...], rng: random.Random) -> Any:
    if rng.random() < 0.2:
        return rng.choice([(), None, (*value, *value), "features", 3, [None], {"a": value[0]}, iter(value)])
    return (spoil_tensor(value[0], rng),)


def spoil_batches(value: list[Any], rng: random.Random) -> Any:
    """A loader of which one batch is not as the others."""
    number = rng.randrange(len(value))
    images, masks = value[number]
    bad = rng.choice(
        [
            (spoil(images, rng), masks),
            (spoil(images, rng), masks),
            (images, spoil(masks, rng)),
            (images, spoil(masks, rng)),
            (images[:1], masks[:1]),
            (images, masks[:1]),
            (images,),
            (images, masks, masks),
            images,
            None,
            {"images": images, "masks": masks},
            [images, masks],
        ]
    )
    return [*value[:number], bad, *value[number + 1 :]]


def spoil_number(value: Any, rng: random.Random) -> Any:
    return rng.choice([*NUMBERS, value])


def spoil_object(value: Any, rng: random.Random) -> Any:
    return rng.choice([None, 3, "x", [], object(), {}, lambda *a: None, torch.zeros(2), np.zeros(3), value])


def spoil(value: Any, rng: random.Random) -> Any:
    """Something like ``value`` that may be wrong."""
    if rng.random() < 0.05:
        return spoil_object(value, rng)
    if isinstance(value, Tensor):
        return spoil_tensor(value, rng)
    if isinstance(value, tuple) and value and isinstance(value[0], Tensor):
        return spoil_levels(value, rng)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return spoil_number(value, rng)
    if isinstance(value, str):
        return rng.choice([*NAMES, value])
    if isinstance(value, dict):
        changed = dict(value)
        key = rng.choice(list(changed))
        changed[rng.choice([key, key, "unknown", "", 3])] = spoil_number(changed[key], rng)
        return changed
    if isinstance(value, list) and value and isinstance(value[0], tuple) and rng.random() < 0.7:
        return spoil_batches(value, rng)
    if isinstance(value, torch.dtype):
        return rng.choice([torch.float16, torch.int8, torch.complex64, torch.float8_e5m2, torch.bool, "float32", None, value])
    if isinstance(value, (list, tuple)):
        return rng.choice([(), [], None, 3, "ab", [None], [-1], [0.5], [math.nan], [*value, *value], [object()], value])
    return spoil_object(value, rng)
