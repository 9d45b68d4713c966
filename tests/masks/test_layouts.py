"""Masks by rarity, and objects pasted from one mask into another."""

from __future__ import annotations

import pytest
import torch

from feataug import ClassBalancedMasks, DatasetMasks, LayoutComposer, MaskMixture
from feataug.data import Scenes, train_transforms
from feataug.errors import DataError
from feataug.masks.copy_paste import components


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def rare_masks():
    """20 masks of road; one of them holds a sign (class 3), two a car (class 2), half of them sky (class 1)."""
    masks = torch.zeros(20, 24, 32, dtype=torch.long)
    masks[:10, :6] = 1
    masks[3, 10:15, 4:9] = 3
    masks[[5, 6], 12:18, 20:28] = 2
    return masks


def test_every_class_is_as_likely_to_be_asked_for():
    masks = rare_masks()
    drawn = ClassBalancedMasks(masks, 5).draw(4_000, rng())
    share = {number: float((drawn == number).flatten(1).any(1).float().mean()) for number in (1, 2, 3)}
    # Four classes occur: the sign's one mask is drawn for a quarter of the picks, and now and then for others.
    assert share[3] == pytest.approx(1 / 4 + 1 / 4 / 10 + 1 / 4 / 20, abs=0.03)
    assert share[2] == pytest.approx(1 / 4 + 2 / 4 / 10 + 2 / 4 / 20, abs=0.03)
    even = DatasetMasks(masks).draw(4_000, rng())
    assert float((even == 3).flatten(1).any(1).float().mean()) == pytest.approx(1 / 20, abs=0.02)


def test_draws_repeat_and_leave_the_global_generator_alone():
    source = ClassBalancedMasks(rare_masks(), 4)
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


def flood(region):
    """The slow way to pieces."""
    left = {(r, c) for r, c in region.nonzero().tolist()}
    pieces = []
    while left:
        piece, edge = set(), [left.pop()]
        while edge:
            r, c = edge.pop()
            piece.add((r, c))
            near = {(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        pieces.append(frozenset(piece))
    return set(pieces)


@pytest.mark.parametrize("density", [0.0, 0.2, 0.45, 1.0])
def test_components_agree_with_flooding(density):
    for seed in range(5):
        region = torch.rand(17, 23, generator=rng(seed)) < density
        labels = components(region)
        found = [frozenset(map(tuple, (labels == number).nonzero().tolist())) for number in range(1, int(labels.max()) + 1)]
        assert set(found) == flood(region)
        assert len(found) == len(set(found))
        assert torch.equal(labels > 0, region)


def test_objects_are_pasted_where_such_objects_are():
    masks = rare_masks()
    composer = LayoutComposer(masks, ClassBalancedMasks(masks, 4), classes=(2, 3), objects=2, min_pixels=8, shift=0.1)
    base, composed = DatasetMasks(masks).draw(300, rng(4)), composer.draw(300, rng(4))
    changed = composed != base
    assert changed.flatten(1).any(1).float().mean() > 0.3
    # Only rare labels come in.
    assert set(composed[changed].tolist()) <= {2, 3}
    counts = [int((drawn == 3).sum()) for drawn in (base, composed)]
    assert counts[1] > 3 * counts[0]
    # They stay near their height, and are anywhere sideways.
    rows = (composed == 3).nonzero()[:, 1]
    assert rows.min() >= 10 - 3
    assert rows.max() <= 14 + 3
    new = (changed & (composed == 3)).nonzero()[:, 2]
    assert new.min() <= 3
    assert new.max() >= 28
    assert torch.equal(composed, composer.draw(300, rng(4)))
    assert torch.equal(masks, rare_masks())


def test_pieces_that_are_no_objects_stay():
    masks = rare_masks()
    donors = torch.full((1, 24, 32), 3)
    assert torch.equal(LayoutComposer(masks, donors, (3,)).draw(5, rng()), DatasetMasks(masks).draw(5, rng()))
    dots = torch.zeros(1, 24, 32, dtype=torch.long)
    dots[0, ::4, ::4] = 3
    assert not (LayoutComposer(masks[10:], dots, (3,)).draw(5, rng()) == 3).any()
    with pytest.raises(DataError, match=r"^LayoutComposer: no class to paste\."):
        LayoutComposer(masks, masks, ())


def test_they_are_mask_sources_like_the_others():
    masks = rare_masks()
    mixture = MaskMixture([masks, LayoutComposer(masks, ClassBalancedMasks(masks, 4), (2, 3))], (3, 1))
    assert mixture.draw(8, rng()).shape == (8, 24, 32)
