"""Parameter groups and learning rates of SGD with the poly policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from feataug.errors import ConfigError
from feataug.training.config import FinetuneConfig


def parameter_groups(model: nn.Module, lr_scale: Mapping[str, float]) -> list[dict[str, Any]]:
    """Group the trainable parameters by their factor of the learning rate; ``lr_scale`` has the factors by prefixes of names.

    Raises:
        ConfigError: no parameter requires a gradient.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scales = [scale for prefix, scale in lr_scale.items() if name.startswith(prefix)]
            groups.setdefault(scales[0] if scales else 1.0, []).append(parameter)
    if not groups:
        raise ConfigError("Finetuner: nothing to train.", given="no parameter requires a gradient", needed="one")
    return [{"params": parameters, "scale": scale} for scale, parameters in groups.items()]


def set_poly_lr(optimizer: Any, config: FinetuneConfig, step: int) -> None:
    """Set each group's learning rate for a step: ``lr * scale * (1 - step / num_steps) ^ power``."""
    for group in optimizer.param_groups:
        group["lr"] = config.lr * group["scale"] * (1 - step / config.num_steps) ** config.power
