"""Pseudo labels: sure pixels stay, holes take the nearest one's label, by exhaustive search."""

import pytest
import torch
from torch import nn

from feataug import pseudo_masks
from feataug.errors import ConfigError
from feataug.masks.pseudo_labels import fill_nearest


@pytest.mark.parametrize("density", [0.02, 0.2, 0.7, 1.0])
def test_holes_take_the_nearest_label(density):
    rng = torch.Generator().manual_seed(round(100 * density))
    labels = torch.randint(5, (13, 19), generator=rng)
    known = torch.rand(13, 19, generator=rng) < density
    known[3, 4] = True
    filled = fill_nearest(labels, known)
    places = known.nonzero()
    for y in range(13):
        for x in range(19):
            squares = (places - torch.tensor([y, x])).square().sum(1)
            nearest = places[squares == squares.min()]
            assert int(filled[y, x]) in {int(labels[a, b]) for a, b in nearest.tolist()}
    assert torch.equal(filled[known], labels[known])


def test_where_nothing_is_known_all_is_void():
    labels = torch.zeros(3, 4, dtype=torch.long)
    assert fill_nearest(labels, torch.zeros(3, 4, dtype=torch.bool), 7).unique().tolist() == [7]


class ByColour(nn.Module):
    """Class 1 where the first channel is above 0, as sure as it is far from 0; half as large as the image."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images):
        assert not self.training
        red = self.scale * images[:, :1, ::2, ::2]
        return {"out": torch.cat([-red, red], dim=1)}


def test_only_sure_pixels_are_believed():
    images = torch.zeros(2, 3, 8, 12)
    images[0, 0, :, :4], images[0, 0, :, 4:] = 1.0, 0.01  # sure of class 1 at the left alone
    images[1, 0] = 0.01  # sure of nothing
    model = ByColour().train()
    first, second = pseudo_masks(model, [(images, None)], threshold=0.7)
    assert first.shape == (8, 12)
    assert first.dtype == torch.long
    assert first.unique().tolist() == [1]
    assert second.unique().tolist() == [255]
    assert model.training
    images[0, 0, :, 4:] = -1.0
    (left, _) = pseudo_masks(model, [images])
    assert left[:, :4].unique().tolist() == [1]
    assert left[:, 7:].unique().tolist() == [0]


def test_refuses_a_threshold_that_nothing_can_pass():
    with pytest.raises(ConfigError) as error:
        pseudo_masks(ByColour(), [], threshold=1.0)
    assert str(error.value) == "pseudo_masks: threshold is out of range.\n  given:   1.0\n  needed:  a number in [0, 1)"
