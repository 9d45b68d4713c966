"""Which device a model is on."""

from __future__ import annotations

from typing import Any

import torch


def device_of(predict: Any) -> torch.device:
    """Where the weights of a module, or of a method's module, are, or its buffers if it has none; the CPU for anything else."""
    predict = getattr(predict, "__self__", predict)
    if isinstance(predict, torch.nn.Module):
        for tensor in (*predict.parameters(), *predict.buffers()):
            return tensor.device
    return torch.device("cpu")
