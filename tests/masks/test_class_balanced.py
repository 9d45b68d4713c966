"""Every class is as likely to be drawn, and a crop is repeated until its class is in it."""

from __future__ import annotations

import pytest
import torch

from feataug import ClassBalancedMasks, DatasetMasks
from feataug.data import Scenes, train_transforms
from feataug.errors import DataError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_class_is_as_likely_to_be_asked_for(rare_masks):
    masks = rare_masks
    drawn = ClassBalancedMasks(masks, 5).draw(4_000, rng())
    share = {number: float((drawn == number).flatten(1).any(1).float().mean()) for number in (1, 2, 3)}
    # Four classes occur: the sign's one mask is drawn for a quarter of the picks, and now and then for others.
    assert share[3] == pytest.approx(1 / 4 + 1 / 4 / 10 + 1 / 4 / 20, abs=0.03)
    assert share[2] == pytest.approx(1 / 4 + 2 / 4 / 10 + 2 / 4 / 20, abs=0.03)
    even = DatasetMasks(masks).draw(4_000, rng())
    assert float((even == 3).flatten(1).any(1).float().mean()) == pytest.approx(1 / 20, abs=0.02)


def test_draws_repeat_and_leave_the_global_generator_alone(rare_masks):
    source = ClassBalancedMasks(rare_masks, 4)
    state = torch.get_rng_state()
    assert torch.equal(source.draw(9, rng(1)), source.draw(9, rng(1)))
    assert not torch.equal(source.draw(9, rng(1)), source.draw(9, rng(2)))
    assert torch.equal(torch.get_rng_state(), state)
    assert source.draw(0, rng()).shape == (0, 24, 32)


def test_a_crop_is_repeated_until_the_class_is_in_it():
    data = Scenes(24, (96, 128), seed=0, transforms=train_transforms((48, 64), scale=(1.0, 1.5)))
    rarest = Scenes.classes.index("sign")
    shares = []
    for tries in (1, 8):
        source = ClassBalancedMasks(data, Scenes.num_classes, tries=tries)
        source.held = {rarest: source.held[rarest]}
        drawn = source.draw(60, rng(3))
        assert drawn.shape == (60, 48, 64)
        shares.append(float(((drawn == rarest).flatten(1).sum(1) >= 16).float().mean()))
    assert shares[1] > shares[0]


def test_no_class_anywhere():
    with pytest.raises(DataError) as error:
        ClassBalancedMasks(torch.full((3, 8, 8), 255), 4)
    assert str(error.value) == ("ClassBalancedMasks: no mask holds a class.\n  given:   3 masks\n  needed:  16 pixels of one class")
