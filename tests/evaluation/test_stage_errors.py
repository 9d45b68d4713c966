"""What ``feataug.stages`` refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from feataug.errors import ConfigError, DataError, ShapeError, SplitError
from tests.support.stage_runs import VOID, TinyModel, patches, run


def refused(error, text, *args, **kwargs):
    with pytest.raises(error) as found:
        run(*args, **kwargs)
    assert str(found.value) == text


def test_refuses_candidates_that_are_none(model):
    needed = "  needed:  one or more different candidates, such as ['encoder.layer2', 'encoder.layer3']"
    refused(ConfigError, f"stages: candidates must be named once.\n  given:   at=[]\n{needed}", model, at=[])
    twice = ["encoder", "encoder"]
    refused(ConfigError, f"stages: candidates must be named once.\n  given:   at={twice!r}\n{needed}", model, at=twice)
    refused(
        ConfigError,
        "stages: at is no sequence.\n  given:   str 'encoder'\n  needed:  layers' names, such as ['encoder.layer2', 'encoder.layer3']",
        model,
        at="encoder",
    )


def test_refuses_a_cut_that_leaks():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, images):
            x = self.first(images)
            return x + self.second(x)

    refused(
        SplitError,
        'split: the cut at "second" leaks.\n'
        "  given:   read after the cut, made before it: 'first'\n"
        "  needed:  everything that the decoder reads crosses the cut\n"
        'A skip connection goes round this layer. Complete cuts: split(model, at=["first", "second"])',
        Skip(),
        at=["second"],
    )


def test_refuses_loaders_that_yield_nothing(model):
    refused(
        DataError,
        "stages: the loader yields nothing.\n  given:   no patch\n"
        "  needed:  an iterable of (images, masks) that can be read again and again",
        model,
        [],
    )
    refused(
        DataError,
        "stages: the loader yields less the second time.\n  given:   6 patches, then 0\n"
        "  needed:  the same patches twice: a DataLoader or a list, no iterator",
        model,
        iter(patches()),
    )


def test_refuses_too_few_places(model):
    refused(
        DataError,
        "stages: no class has enough grid points.\n"
        "  given:   0 of the most frequent class in 6 patches, one in 4 x 4 pixels\n"
        "  needed:  min_cells, 1, or more\n"
        "Use more patches, or a smaller min_cells.",
        model,
        [(images, torch.full_like(masks, VOID)) for images, masks in patches()],
    )


def test_refuses_features_that_are_not_finite(model):
    model.encoder[3].weight.data[:] = math.nan
    text = 'stages: features are not finite.\n  given:   infinity or NaN at "encoder"\n  needed:  numbers; has the model diverged?'
    # The cut itself cannot be verified on NaN where they come before it.
    loader = [(images.masked_fill(images > 2, math.inf), masks) for images, masks in patches()]
    refused(DataError, text.replace('"encoder"', '"encoder.0:input"'), TinyModel(), loader)


def test_refuses_numbers_and_masks_of_another_size(model):
    for name, low in (("count", 1), ("num_images", 1), ("min_cells", 1), ("generator_images", 0)):
        text = f"stages: {name} is out of range.\n  given:   {low - 1}\n  needed:  an integer in [{low}, inf)"
        refused(ConfigError, text, model, **{name: low - 1})
    with pytest.raises(ShapeError, match="stages: the features do not fit the spec"):
        run(model, [(images, masks[:, :20]) for images, masks in patches()])
