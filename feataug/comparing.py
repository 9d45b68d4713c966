"""Compare what two passes of a model return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from feataug.containers import tensors_of


def has_nan(out: Any) -> bool:
    """Is there a NaN in any tensor?"""
    return any(bool(tensor.isnan().any()) for tensor in tensors_of(out))


def same(out: Any, plain: Any, *, exact: bool = True) -> bool:
    """Equal in all tensors of two outputs, NaN equal to NaN: bit for bit on CPU, nearly on a GPU, whose kernels may be others."""

    def equal(x: Tensor, y: Tensor) -> bool:
        if x.shape != y.shape or not torch.equal(x.isnan(), y.isnan()):
            return False
        x, y = x.nan_to_num(), y.nan_to_num()
        return torch.equal(x, y) if exact and x.device.type == "cpu" else torch.allclose(x, y, rtol=1e-3, atol=1e-4)

    a, b = tensors_of(out), tensors_of(plain)
    return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
