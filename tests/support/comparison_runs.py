"""A small model, data and a generator for the tests of ``feataug.compare``."""

from __future__ import annotations

import hashlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import feataug
from feataug.data import Scenes, eval_transforms, seeded_loader, train_transforms

SIZE = (32, 48)
CLASSES = Scenes.num_classes


class TinyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images):
        return F.interpolate(self.head(self.encoder(images)), images.shape[-2:], mode="bilinear")


@pytest.fixture(scope="module")
def trained():
    """A model that has learned something, and a generator for it."""
    torch.manual_seed(0)
    model = TinyModel()
    data = Scenes(16, SIZE, seed=0, transforms=train_transforms(SIZE))
    config = feataug.FinetuneConfig(num_steps=60, lr=0.1)
    feataug.Finetuner(model, config, device="cpu", progress=False).fit(seeded_loader(data, 8))
    spec = feataug.split(model, "encoder", example=torch.zeros(1, 3, *SIZE)).spec
    generator = feataug.FeatureGenerator(CLASSES, spec, "bicyclegan", mask_widths=(8,), width=8, depth=0, latent_dim=2)
    return model, generator, data


def compare(trained, *, steps=3, lr=0.02, generator=None, loader=None, **kwargs):
    model, own, data = trained
    val = Scenes(8, SIZE, seed=1, transforms=eval_transforms())
    return feataug.compare(
        model,
        "encoder",
        generator or own,
        kwargs.pop("masks", feataug.DatasetMasks(data)),
        loader or (lambda seed: seeded_loader(data, 8, seed=seed)),
        seeded_loader(val, 8, shuffle=False),
        feataug.FinetuneConfig(num_steps=steps, lr=lr),
        example=torch.zeros(1, 3, *SIZE),
        device="cpu",
        progress=False,
        **kwargs,
    )


WEIGHTS = torch.linspace(0.2, 3.0, CLASSES)


def old_fingerprint(module):
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(-1).double().numpy().tobytes())
    return digest.hexdigest()[:12]
