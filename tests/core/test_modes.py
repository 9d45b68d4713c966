"""Eval mode for a while, whatever a model's own ``train`` and ``eval`` do."""

import pytest
import torch
from torch import nn

from feataug.core.modes import eval_mode
from feataug.cutting.cut import split
from feataug.inference.evaluate import evaluate

IMAGES = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Cached(nn.Module):
    """Caches a value computed from its weights, and drops it only in ``train()`` and ``eval()``, as timm's LeViT does."""

    def __init__(self):
        super().__init__()
        self.bias, self.cache = nn.Parameter(torch.zeros(1, 8, 1, 1)), None

    def train(self, mode=True):
        self.cache = None
        return super().train(mode)

    def forward(self, maps):
        if self.training:
            return maps + self.bias
        if self.cache is None:
            self.cache = self.bias * 2 / 2
        return maps + self.cache


class Stubborn(nn.Sequential):
    """Stays in training mode, as a part that an override of ``train`` skips."""

    def train(self, mode=True):
        return self


def test_eval_mode_calls_eval_and_sets_every_flag():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), Cached(), Stubborn(nn.Dropout(0.5)), nn.Conv2d(8, 3, 1))
    loader = [(IMAGES, torch.zeros(1, 16, 16, dtype=torch.long))]
    with eval_mode(model):
        first = model(IMAGES)
        assert torch.equal(first, model(IMAGES))
    assert model[2][0].training
    with torch.no_grad():
        model[1].bias += 1
        model[3].weight.zero_()
        model[3].weight[2] = 1
        model[3].bias.zero_()
    # The model is measured as it is now, not with the weights that it once cached.
    with eval_mode(model):
        assert float(model(IMAGES)[:, 2].mean()) != pytest.approx(float(first[:, 2].mean()))
    assert evaluate(model, loader, 3)["pixel_acc"] < 100
    # A weight that eval mode had cached is still the encoder's.
    model.eval()
    model(IMAGES)
    cut = split(model, "1", example=IMAGES)
    assert any(parameter is model[1].bias for parameter in cut.encoder_parameters())
