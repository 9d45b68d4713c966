"""The demo's network, small enough for a CPU, and its first training: a plain PyTorch loop, as a user of feataug has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feataug.data.scenes.dataset import Scenes
from feataug.training.batches import endless
from feataug.training.progress import progress_bar
from feataug.training.run_folder import RunFolder, folder_lock

_LR = 4e-3
# Rare classes weigh more than frequent ones, but less than the inverse of their frequencies would have it.
_RARITY_POWER = 0.6
_LOSS_LINES = 40


def _block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class StreetNet(nn.Module):
    """An encoder of stride 4, at which poles and pedestrians of the scenes survive, and a decoder of dilated convolutions.

    Args:
        num_classes: Channels of the logits.

    Shapes: images ``(B, 3, H, W)`` float to logits ``(B, num_classes, H, W)``.

    Source:
        Ours. The logits of four pixels come from one cell of the decoder (Shi et al., 2016, "sub-pixel convolution").
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(_block(3, 32, stride=2), _block(32, 48, stride=2), _block(48, 32))
        self.context = nn.Sequential(_block(32, 48), *(_block(48, 48, dilation=dilation) for dilation in (2, 4, 8)))
        self.classifier = nn.Sequential(nn.Conv2d(48, 4 * num_classes, 1), nn.PixelShuffle(2))

    def forward(self, images: Tensor) -> Tensor:
        """Predict logits."""
        logits = self.classifier(self.context(self.encoder(images)))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


def train_base(
    model: StreetNet, loader: Any, scenes: Scenes, steps: int, *, folder: Path, settings: dict[str, Any], text: str, progress: bool
) -> None:
    """Train by AdamW on cross entropy with class weights, in one cycle; take the weights from the folder if they are there.

    Args:
        model: Trained in place, on the device where it is.
        loader: Yields batches of images and masks; read as often as needed.
        scenes: The labelled scenes, whose class frequencies decide the weights.
        steps: The number of steps.
        folder: Receives a checkpoint and the losses.
        settings: All that the weights depend on; a folder of other settings is refused.
        text: The label of the progress bar.
        progress: Shows a progress bar.

    Raises:
        CheckpointError: the folder holds a run of other settings.
    """
    run = RunFolder(folder, settings)
    device = next(model.parameters()).device
    with folder_lock(folder):
        if found := run.resume():
            model.load_state_dict(found[1]["model"])
            return
        model.to(memory_format=torch.channels_last).train()
        weights = class_weights(scenes).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LR)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, steps)
        batches = endless(loader, 0)
        with progress_bar(steps, 0, text, "step", progress) as bar:
            for step in range(1, steps + 1):
                images, masks = next(batches)
                images = images.to(device, memory_format=torch.channels_last)
                loss = F.cross_entropy(model(images), masks.to(device), weights, ignore_index=scenes.ignore_index)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
                if step == steps or step % max(steps // _LOSS_LINES, 1) == 0:
                    run.log(step, {"loss": loss.item()})
        run.save(steps, {"model": model.state_dict()})


def class_weights(scenes: Scenes) -> Tensor:
    """A weight for each class, with mean 1: the inverse of its share of the pixels, to the power 0.6. A class without a pixel has 0."""
    counts = torch.zeros(scenes.num_classes, dtype=torch.float64)
    for index in range(len(scenes)):
        mask = scenes.mask(index)
        counts += torch.bincount(mask[mask != scenes.ignore_index], minlength=scenes.num_classes)
    weights = torch.where(counts > 0, counts.clamp(min=1) ** -_RARITY_POWER, 0.0)
    return (weights / weights.mean()).float()
