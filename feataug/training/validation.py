"""Measure a model during its training, by a loader or by a function of the user."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import nn

from feataug.core.checks import check_batch, check_loader
from feataug.core.crop_sizes import noted_size
from feataug.core.modes import eval_mode
from feataug.core.windows import tiles
from feataug.errors import ConfigError
from feataug.inference.context_check import CropSize
from feataug.inference.evaluate import evaluate
from feataug.inference.recognition import recognition
from feataug.training.batches import part_of
from feataug.training.objective_base import Objective


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
def try_validation(cut: Any, val_loader: Any, crops: tuple[int, int] | None, device: torch.device) -> None:
    """Run the model on the first validation images: what goes wrong there must not wait for the end of a long training."""
    for batch in islice(check_loader("GeneratorTrainer", val_loader), 1):
        images, masks = check_batch("GeneratorTrainer", batch, cut.model)
        for part, _, _ in islice(tiles(images, masks, _window(cut, crops), 255), 1):
            size = (int(part.shape[-2]), int(part.shape[-1]))
            cut.decode(cut.encode(part.to(device, memory_format=torch.channels_last)), size)


def measure_generator(
    objective: Objective, generator: Any, val_loader: Any, crops: tuple[int, int] | None, device: torch.device
) -> dict[str, Any]:
    """Recognition score and diversity of a generator, and a flow's loss on images that are not trained on.

    Args:
        objective: What the generator is trained on.
        generator: The trained weights or their moving average.
        val_loader: Pairs to measure on.
        crops: Rows and columns of the images that the generator was trained on; ``None`` if they differed.
        device: Where to measure.
    """
    window = _window(objective.cut, crops)
    found = recognition(
        objective.cut, generator, val_loader, ignore_index=generator.ignore_index, seed=objective.config.seed, device=device, window=window
    )
    held_out = objective.held_out(generator, val_loader, window)
    return found if held_out is None else found | {"held_out": held_out}


def _window(cut: Any, crops: tuple[int, int] | None) -> tuple[int, int] | None:
    """Rows and columns of the crops that the model was trained on; if a loop of the user's own left no note, of the generator's."""
    return noted_size(cut.model) or crops
