"""Digests of weights, tensors and files, which change when the content does."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# Limits: values of a tensor, file sizes, file contents, and bytes of a file. Beyond them an evenly spread part is digested.
_VALUES, _SIZES, _CONTENTS, _BYTES = 2**16, 64, 8, 2**18


def fingerprint(module: nn.Module) -> str:
    """Sixteen digits for the values, names, shapes and dtypes of weights and buffers, on any device and in any memory format."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}\n".encode())
        if not isinstance(value, Tensor):
            digest.update(type(value).__qualname__.encode())
        elif not is_lazy(value):
            digest.update(f"{value.dtype} {tuple(value.shape)}\n".encode())
            if not value.is_meta:
                digest.update(_bytes(value))
    return digest.hexdigest()[:16]


def values_of(value: Tensor | np.ndarray) -> dict[str, Any]:
    """Shape and digest of a tensor. The digest of a large one covers values spread over it."""
    plain = value.detach() if isinstance(value, Tensor) else torch.from_numpy(value) if value.dtype.kind in "biuf" else None
    if plain is None or plain.is_meta or plain.layout != torch.strided:
        return {"shape": list(value.shape)}
    flat = plain.reshape(-1)
    part = flat[:: max(1, len(flat) // _VALUES)]
    return {"shape": list(plain.shape), "dtype": str(plain.dtype).removeprefix("torch."), "digest": digest_of(_bytes(part))}


def _bytes(value: Tensor) -> Any:
    """The bytes of a tensor's values, in row-major order."""
    value = value.detach()
    value = value.to_dense() if value.layout != torch.strided else value
    value = value.int_repr() if value.is_quantized else value
    return value.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def files_of(value: Sequence[Any]) -> dict[str, Any]:
    """Number of files, digest of their names below the common folder, and digest of some sizes and contents."""
    rows = [item if isinstance(item, (list, tuple)) else (item,) for item in value]
    names = [str(part) for row in rows for part in row if isinstance(part, (str, Path))]
    try:
        common = os.path.commonpath(names)
        common = common if common not in names else os.path.dirname(common)
        short = [os.path.relpath(name, common or ".") for name in names]
    except ValueError:  # absolute and relative paths have no common folder
        short = [os.path.basename(name) for name in names]
    content: list[Any] = [os.path.getsize(name) if os.path.isfile(name) else None for name in spread(names, _SIZES)]
    for name in spread(names, _CONTENTS):
        if os.path.isfile(name):
            with open(name, "rb") as file:
                content.append(digest_of(file.read(_BYTES)))
    return {"count": len(rows), "names": digest_of(text_of(short).encode()), "content": digest_of(text_of(content).encode())}


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the items, evenly spread."""
    return [items[number * len(items) // count] for number in range(count)] if len(items) > count else list(items)


def digest_of(content: Any) -> str:
    """Sixteen digits for bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def text_of(value: Any) -> str:
    """JSON with sorted names, for digests."""
    return json.dumps(value, sort_keys=True, default=str)
