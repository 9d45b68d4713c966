"""What a user sees who prints an object: what it is and how large, never an address."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import feataug
import feataug.evaluation
from feataug.data import Scenes


@pytest.mark.parametrize("module", [feataug, feataug.data, feataug.evaluation], ids=lambda module: module.__name__)
def test_every_public_class_says_what_it_is(module):
    classes = {name: value for name in module.__all__ if inspect.isclass(value := getattr(module, name))}
    assert classes
    assert [name for name, value in classes.items() if value.__repr__ is object.__repr__] == []


def test_sources_of_masks():
    masks = torch.tensor([0, 1, 1]).view(3, 1, 1).expand(3, 8, 8)
    plain = feataug.DatasetMasks(masks)
    assert repr(plain) == "DatasetMasks(3 masks of Tensor)"
    assert repr(feataug.DatasetMasks(Scenes(4, (32, 48)))) == "DatasetMasks(4 masks of Scenes)"
    balanced = feataug.ClassBalancedMasks(masks, 5)
    assert repr(balanced) == "ClassBalancedMasks(DatasetMasks(3 masks of Tensor), 2 classes)"
    composed = feataug.LayoutComposer(plain, balanced, [1], objects=2)
    assert repr(composed) == f"LayoutComposer({plain}, {balanced}, classes=(1,), objects=2)"
    hard = feataug.HardNegativeSampler(plain, 8, 2, 5)
    assert repr(hard) == f"HardNegativeSampler({plain}, candidates=8, keep=2, refresh_every=5)"
    assert repr(feataug.MaskMixture([composed, hard], (3, 0.5))) == f"MaskMixture([{composed}, {hard}], weights=(3, 0.5))"


def test_data_sets():
    assert repr(Scenes(4, (32, 48))) == "Scenes(4 scenes of 32 x 48, 10 classes)"


def test_cuts_are_a_list_that_is_printed_as_lines():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    places = feataug.cuts(model)
    assert isinstance(places, list)
    assert repr(places).split("\n") == [str(place) for place in places]
    assert len(places) == 2
    assert "8 / 2; encoder has" in repr(places)
    assert repr(places[:0]) == "[]"
    cut = feataug.split(model, places[0].at)
    assert repr(cut) == 'Cut(Sequential at "1"; channels / stride: 8 / 2)'
    assert repr(feataug.PixelFilter(cut, torch.ones(2))) == "PixelFilter(2 classes, factor=1.25)"


def test_the_settings_that_are_recommended_can_be_read(tiny_net):
    net = tiny_net(Scenes.num_classes)
    cut, data = feataug.split(net, at="body"), Scenes(3, (32, 48))
    loader = [(data[n][0][None] / 255, data[n][1][None]) for n in range(3)]
    found = feataug.recommended(cut, data, loader, Scenes.num_classes)
    assert str(found) == (
        "{'masks': DatasetMasks(3 masks of Scenes), 'ratio': 0.3, 'pixel_filter': PixelFilter(10 classes, factor=1.25), "
        "'class_weights': None}"
    )
