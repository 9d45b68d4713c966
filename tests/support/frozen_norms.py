"""A small model with norms, and ways to freeze them."""

from __future__ import annotations

import torch
from torch import nn

from feataug.training.batch_norm import statistics_of

SIZE = (16, 24)


def batches(count=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    pairs = ((torch.rand(4, 3, *SIZE, generator=rng), torch.randint(5, (4, *SIZE), generator=rng)) for _ in range(count))
    return list(pairs)


class Net(nn.Module):
    def __init__(self, norm=nn.BatchNorm2d, frozen=False):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Dropout(0.3), nn.Conv2d(8, 5, 1))
        self.frozen = frozen

    def forward(self, images):
        return self.head(self.encoder(images))

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self


def make(frozen=False, norm=nn.BatchNorm2d):
    """A model whose norms have seen something."""
    torch.manual_seed(0)
    model = Net(norm, frozen=False)
    with torch.no_grad():
        for images, _ in batches(seed=9):
            model(images * 3 + 1)
    model.frozen = frozen
    return model.train()


def statistics(model, prefix=""):
    return {name: value.clone() for name, value in statistics_of(model).items() if name.startswith(prefix)}


def equal(one, other, counted=True):
    if not counted:
        one, other = ({n: v for n, v in x.items() if "num_batches" not in n} for x in (one, other))
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def freeze_by_modes(model):
    model.encoder.requires_grad_(False)
    model.encoder.eval()


def freeze_the_norm(model):
    model.encoder[1].requires_grad_(False).eval()


def freeze_by_train(model):
    model.frozen = True
    model.train()


def freeze_by_momentum(model):
    model.encoder[1].momentum = 0.0


def freeze_by_tracking(model):
    model.encoder[1].track_running_stats = False


FREEZERS = [freeze_by_modes, freeze_the_norm, freeze_by_train, freeze_by_momentum, freeze_by_tracking]
