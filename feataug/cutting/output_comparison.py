"""Compare the outputs of two passes of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from feataug.cutting.containers import leaves_of


def has_nan(out: Any) -> bool:
    """Whether any tensor, array or number holds NaN."""
    return any(bool(values.isnan().any()) for values in numbers_in(out))


def same_outputs(out: Any, plain: Any, *, exact: bool = True) -> bool:
    """Whether all tensors, arrays and numbers of two outputs are equal; NaN equals NaN.

    On the CPU they must be equal bit for bit. Elsewhere a small difference is allowed, because kernels may differ.
    """

    def equal(x: Tensor, y: Tensor) -> bool:
        if x.shape != y.shape or not torch.equal(x.isnan(), y.isnan()):
            return False
        x, y = x.nan_to_num(), y.nan_to_num()
        return torch.equal(x, y) if exact and x.device.type == "cpu" else torch.allclose(x, y, rtol=1e-3, atol=1e-4)

    a, b = numbers_in(out), numbers_in(plain)
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))


def numbers_in(value: Any) -> list[Tensor]:
    """All numbers in a value as dense tensors: from tensors, NumPy arrays, and Python numbers."""
    found = []
    for leaf in leaves_of(value):
        if isinstance(leaf, Tensor):
            found.append(leaf if leaf.layout is torch.strided else leaf.to_dense())
        elif isinstance(leaf, (bool, int, float, complex)) or (isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype.kind in "biufc"):
            found.append(torch.as_tensor(leaf))
    return found
