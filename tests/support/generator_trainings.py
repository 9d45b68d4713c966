"""A small model and settings for the tests of ``GeneratorTrainer``."""

import json

import torch
from torch import nn

from feataug import split
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.training.generator_trainer import GeneratorTrainer
from tests.support.small_generators import small_config, small_generator

SIZE = (32, 48)
CLASSES = Scenes.num_classes
# BicycleGAN without any of its terms.
OFF = {f"{name}_weight": 0.0 for name in ("gan", "l1", "latent", "kl", "task", "diversity")}


class TinyModel(nn.Module):
    def __init__(self, channels=12):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.head = nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout(0.5), nn.Conv2d(channels, CLASSES, 1))

    def forward(self, images):
        return self.head(self.encoder(images))


def scenes(count=10):
    return Scenes(count, SIZE, transforms=train_transforms(SIZE))


def loader(batch_size=4):
    return seeded_loader(scenes(), batch_size, seed=1)


def settings(preset="flow", **changes):
    return small_config(preset, **{"num_images": 16, "stats_images": 4, "log_images": 4, "ema_images": 8} | changes)


def make(config=None, **kwargs):
    """A trainer for a flow, or for the objective of ``config``."""
    config = config or settings()
    torch.manual_seed(0)
    cut = split(TinyModel(), at="encoder")
    generator = small_generator(CLASSES, cut.spec, config.objective)
    return GeneratorTrainer(generator, cut, config, **{"device": "cpu", "progress": False} | kwargs)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])] == []


def statistics(folder):
    """``stats.jsonl`` without the clock."""
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
