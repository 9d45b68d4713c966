"""A small model and settings for the tests of ``GeneratorTrainer``."""

import json

import torch
from torch import nn

from feataug import FeatureGenerator, split
from feataug.data import Scenes, seeded_loader, train_transforms
from feataug.training.config import GeneratorConfig
from feataug.training.generator_trainer import GeneratorTrainer

SIZE = (32, 48)
CLASSES = Scenes.num_classes
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


def settings(**changes):
    return GeneratorConfig(**({
        "num_images": 16, "critic_width": 8, "critic_scales": 1, "stats_images": 4, "log_images": 4, "ema_images": 8,
    } | changes))  # fmt: skip


def make(config=None, **kwargs):
    torch.manual_seed(0)
    cut = split(TinyModel(), at="encoder")
    generator = FeatureGenerator(CLASSES, cut.spec, mask_widths=(8,), width=8, depth=1, latent_dim=3)
    return GeneratorTrainer(generator, cut, config or settings(), device="cpu", progress=False, **kwargs)


def copied(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])] == []


def statistics(folder):
    """``stats.jsonl`` without the clock."""
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
