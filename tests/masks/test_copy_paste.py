"""Objects of rare classes are found, and pasted where such objects are."""

from __future__ import annotations

import pytest
import torch

from feataug import ClassBalancedMasks, DatasetMasks, LayoutComposer, MaskMixture
from feataug.errors import DataError
from feataug.masks.copy_paste import components


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


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


def test_objects_are_pasted_where_such_objects_are(rare_masks):
    masks, untouched = rare_masks, rare_masks.clone()
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
    assert torch.equal(masks, untouched)


def test_pieces_that_are_no_objects_stay(rare_masks):
    masks = rare_masks
    donors = torch.full((1, 24, 32), 3)
    assert torch.equal(LayoutComposer(masks, donors, (3,)).draw(5, rng()), DatasetMasks(masks).draw(5, rng()))
    dots = torch.zeros(1, 24, 32, dtype=torch.long)
    dots[0, ::4, ::4] = 3
    assert not (LayoutComposer(masks[10:], dots, (3,)).draw(5, rng()) == 3).any()
    with pytest.raises(DataError, match=r"^LayoutComposer: no class to paste\."):
        LayoutComposer(masks, masks, ())


def test_they_are_mask_sources_like_the_others(rare_masks):
    masks = rare_masks
    mixture = MaskMixture([masks, LayoutComposer(masks, ClassBalancedMasks(masks, 4), (2, 3))], (3, 1))
    assert mixture.draw(8, rng()).shape == (8, 24, 32)
