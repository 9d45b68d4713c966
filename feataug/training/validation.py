"""Measure a model during its training, by a loader or by a function of the user."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import nn

from feataug.core.checks import check_batch, check_loader
from feataug.core.modes import eval_mode
from feataug.errors import ConfigError
from feataug.inference.context_check import CropSize
from feataug.inference.evaluate import evaluate
from feataug.training.batches import part_of


def validate_model(
    model: nn.Module, validate: Any, num_classes: int | None, ignore_index: int, crop_size: CropSize, device: torch.device
) -> dict[str, Any]:
    """Call ``validate`` with the model in eval mode, or ``evaluate`` if it is a loader; see ``Finetuner.fit``."""
    if callable(validate):
        # eval_mode restores each module's own mode: frozen modules stay frozen.
        with eval_mode(model):
            return validate(model)
    if num_classes is None:
        raise ConfigError("Finetuner: num_classes is missing.", given="a validation loader", needed="num_classes=")
    # The metrics sum their counts over processes.
    return evaluate(model, part_of(validate), num_classes, ignore_index=ignore_index, device=device, crop_size=crop_size)


@torch.no_grad()
def try_validation(cut: Any, val_loader: Any, device: torch.device) -> None:
    """Run the model on the first validation images: what goes wrong there must not wait for the end of a long training."""
    for batch in islice(check_loader("GeneratorTrainer", val_loader), 1):
        images, _ = check_batch("GeneratorTrainer", batch, cut.model)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        cut.decode(cut.encode(images.to(device, memory_format=torch.channels_last)), size)
