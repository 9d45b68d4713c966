"""The device of a model."""

from __future__ import annotations

from typing import Any

import torch


def device_of(predict: Any) -> torch.device:
    """The device of a module's weights, or else of its buffers. A method counts as its module, anything else as on the CPU."""
    predict = getattr(predict, "__self__", predict)
    if isinstance(predict, torch.nn.Module):
        for tensor in (*predict.parameters(), *predict.buffers()):
            return tensor.device
    return torch.device("cpu")
