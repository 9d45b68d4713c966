"""What the mixer says when it is given something else than it needs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.errors import ConfigError, LabelError, ShapeError, SplitError
from feataug.generation.generator import FeatureGenerator
from feataug.masks import DatasetMasks
from feataug.mixing.mixer import FeatureMixer, MixPlan

SIZE = (32, 40)


def make_generator():
    return FeatureGenerator(5, FeatureSpec((LevelSpec("body", 16, 4),)), width=8, depth=1)


def draw_masks(count, size=SIZE):
    return torch.randint(5, (count, *size), generator=torch.Generator().manual_seed(0))


def make_mixer(ratio=0.3):
    return FeatureMixer(make_generator(), DatasetMasks(draw_masks(20)), ratio)


def wrong_label():
    return MixPlan(torch.full((2, *SIZE), 40), torch.zeros(2, 8))


OTHER_CUT = (
    "The model seems to be cut at another layer, or to be given images of another size, than the one the spec was made for:\n"
    "cut it there, or train a generator for this cut with GeneratorTrainer."
)
ERRORS = {
    "source": (
        lambda f, m: FeatureMixer(make_generator(), {"masks": m}),
        ConfigError,
        "FeatureMixer: masks cannot draw.\n"
        "  given:   dict\n"
        "  needed:  a mask source, an object with draw(n, generator) -> (n, H, W); or a data set, a sequence or a tensor of masks",
    ),
    "ratio": (
        lambda f, m: make_mixer(1.0),
        ConfigError,
        "FeatureMixer: ratio is out of range.\n  given:   1.0\n  needed:  a number in [0, 1)",
    ),
    "another cut": (
        lambda f, m: make_mixer()((torch.zeros(11, 24, 4, 5),), m),
        ShapeError,
        "FeatureMixer: the features do not fit the spec.\n"
        '  given:   [11, 24, 4, 5] float32 on cpu   at level "body"\n'
        "  needed:  [B, 16, 8, 10]   (channels 16, reduction 4, for masks of 32 x 40)\n" + OTHER_CUT,
    ),
    "batch sizes": (
        lambda f, m: make_mixer()(f, m[:7]),
        ShapeError,
        "FeatureMixer: features and masks hold different numbers of samples.\n"
        "  given:   11 features, 7 masks\n"
        "  needed:  one mask for each sample",
    ),
    "drawn size": (
        lambda f, m: make_mixer()(f, m, MixPlan(draw_masks(2, (16, 16)), torch.zeros(2, 8))),
        ShapeError,
        "FeatureMixer: drawn masks differ in size from the batch's.\n"
        "  given:   [2, 16, 16] int64 on cpu\n"
        "  needed:  [n, 32, 40]\n"
        "Give the mask source the crop of the training images: feataug.DatasetMasks(data, transforms=...).",
    ),
    "drawn label": (
        lambda f, m: make_mixer()(f, m, wrong_label()),
        LabelError,
        "FeatureGenerator: a mask holds labels that are no class.\n"
        "  given:   [40] in [2, 32, 40] int64 on cpu, first at sample 0, row 0, column 0\n"
        "  needed:  0 .. 4, or ignore_index (255) for void\n"
        "Map the data set's own ids to 0 .. num_classes - 1 first, or raise num_classes if these are classes.",
    ),
    "no cut": (
        lambda f, m: make_mixer().on(nn.Conv2d(3, 4, 1), m).__enter__(),
        SplitError,
        "FeatureMixer: where to mix is not clear.\n"
        "  given:   Conv2d with 0 cuts\n"
        "  needed:  a cut, or a model that was split once and whose cut is still there\n"
        'cut = feataug.split(model, at="..."), then mixer.on(cut, masks).',
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_messages(name):
    attempt, kind, text = ERRORS[name]
    with pytest.raises(kind) as error:
        attempt((torch.zeros(11, 16, 8, 10),), draw_masks(11))
    assert str(error.value) == text
