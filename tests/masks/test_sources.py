"""Where masks come from: data sets, and several sources in fixed proportions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feataug.data import train_transforms
from feataug.errors import ConfigError, DataError, DtypeError, ShapeError
from feataug.masks import DatasetMasks, MaskMixture, MaskSource


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(count, start=0):
    """Masks that are told apart by their one value."""
    return torch.arange(start, start + count)[:, None, None].expand(-1, 2, 3).clone()


class Pairs:
    """A data set of (image, mask)."""

    def __init__(self, masks):
        self.masks = masks

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, index):
        return torch.zeros(3, 2, 3), self.masks[index]


class WithMask(Pairs):
    """One that gives masks without images, and crops at random."""

    def __getitem__(self, index):
        raise AssertionError("an image was read")

    def mask(self, index):
        return self.masks[index]

    def transforms(self, mask):
        return mask + int(torch.randint(2, ())) * 100


FORMS = {"tensor": lambda m: m, "uint8": lambda m: m.to(torch.uint8), "list": list, "pairs": Pairs, "mask()": WithMask}


@pytest.mark.parametrize("form", FORMS)
def test_masks_of_a_data_set_are_drawn_evenly_by_the_generator_alone(form):
    source = DatasetMasks(FORMS[form](numbered(10)))
    assert len(source) == 10
    assert isinstance(source, MaskSource)
    before = torch.get_rng_state()
    drawn = source.draw(2000, seeded())
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn.shape == (2000, 2, 3)
    assert drawn.dtype == torch.int64
    shares = (drawn[:, 0, 0] % 100).bincount(minlength=10) / 2000
    # Five standard errors.
    assert (shares - 0.1).abs().max() < 5 * (0.1 * 0.9 / 2000) ** 0.5
    torch.manual_seed(77)
    assert torch.equal(source.draw(2000, seeded()), drawn)
    assert not torch.equal(source.draw(2000, seeded(1)), drawn)
    before = torch.get_rng_state()
    assert source.draw(0, seeded()).shape == (0, 2, 3)
    assert torch.equal(torch.get_rng_state(), before)
    if form == "mask()":
        assert 0.4 < (drawn[:, 0, 0] >= 100).float().mean() < 0.6


def test_drawing_leaves_other_devices_generators_alone(monkeypatch):
    touched = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", touched.append)
    DatasetMasks(list(numbered(3))).draw(5, seeded())
    assert touched == []
    # The check would find it.
    torch.manual_seed(0)
    assert touched == [0]


def test_random_transforms_follow_the_generator_too():
    source = DatasetMasks(Pairs(numbered(10)), transforms=lambda mask: mask + torch.randint(1000, (2, 3)))
    drawn = source.draw(6, seeded())
    assert torch.equal(source.draw(6, seeded()), drawn)
    assert len(drawn[:, 0, 0].unique()) > 3


def test_a_draw_is_a_copy():
    masks = numbered(3)
    DatasetMasks(masks).draw(5, seeded()).zero_()
    DatasetMasks([masks[0]]).draw(5, seeded()).zero_()
    assert torch.equal(masks, numbered(3))


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        ([], DataError, "DatasetMasks: the data set is empty.\n  given:   list\n  needed:  at least one mask"),
        (
            [torch.zeros(2, 3)],
            DtypeError,
            "DatasetMasks: masks must be integer label maps.\n"
            "  given:   [1, 2, 3] float32 on cpu\n"
            "  needed:  (B, H, W) int64, the class of every pixel\n"
            "For one-hot or probability maps of shape (B, K, H, W), pass masks.argmax(1).",
        ),
        (
            [torch.zeros(1, 2, 3).long()],
            ShapeError,
            "DatasetMasks: an item is not a mask.\n  given:   [1, 2, 3] int64 on cpu\n  needed:  (H, W) integers",
        ),
        (
            [torch.zeros(2, 3).long(), torch.zeros(3, 2).long()],
            ShapeError,
            "DatasetMasks: the masks differ in size.\n"
            "  given:   (2, 3), (3, 2)\n"
            "  needed:  one size\n"
            "Pass transforms= that crop or resize the masks to the size of the training images.",
        ),
    ],
)
def test_data_sets_that_will_not_do(data, kind, text):
    with pytest.raises(kind) as error:
        DatasetMasks(data).draw(20, seeded())
    assert str(error.value) == text


def check_shares(counts, n, share):
    assert set(counts) <= {int(n * share), int(n * share) + 1}
    rest = n * share % 1
    assert sum(counts) / len(counts) == pytest.approx(n * share, abs=5 * (rest * (1 - rest) / len(counts)) ** 0.5 + 1e-9)


@pytest.mark.parametrize("n", [5, 8, 1])
def test_a_mixture_of_3_to_1_is_exact_in_the_mean_and_nearly_in_each_draw(n):
    source = MaskMixture([numbered(10), numbered(10, start=50)], (3, 1))
    rng = seeded()
    draws = [source.draw(n, rng) for _ in range(1000)]
    assert {tuple(d.shape) for d in draws} == {(n, 2, 3)}
    counts = [int((d[:, 0, 0] >= 50).sum()) for d in draws]
    check_shares(counts, n, 0.25)
    # A planted fault: independent choices have the same mean but not these counts.
    with pytest.raises(AssertionError):
        check_shares((torch.rand(1000, n, generator=rng) < 0.25).sum(1).tolist() if n > 1 else [0] * 1000, n, 0.25)
    if n > 1:
        # The order is random: the second source is not always last.
        assert any(d[0, 0, 0] >= 50 for d in draws)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=4), st.integers(0, 30), st.integers(0, 99))
def test_every_share_of_a_mixture_is_floor_or_ceil(weights, n, seed):
    source = MaskMixture([numbered(3, 10 * i) for i in range(len(weights))], weights)
    drawn = source.draw(n, seeded(seed))
    assert drawn.shape == (n, 2, 3)
    for number, weight in enumerate(weights):
        share = n * weight / sum(weights)
        count = int((drawn[:, 0, 0] // 10 == number).sum())
        assert share - 1 - 1e-9 < count < share + 1 + 1e-9
    assert torch.equal(source.draw(n, seeded(seed)), drawn)


def test_plain_masks_are_cropped_as_masks():
    masks = torch.randint(5, (3, 30, 40), generator=torch.Generator().manual_seed(0))
    source = DatasetMasks(list(masks), transforms=train_transforms((12, 16), scale=(1.5, 1.5)))
    drawn = source.draw(4, torch.Generator().manual_seed(0))
    assert (drawn.shape, drawn.dtype) == ((4, 12, 16), torch.int64)
    # Labels are not blended, as an image's colours would be.
    assert set(drawn.unique().tolist()) <= {0, 1, 2, 3, 4}


def test_masks_of_several_sizes_make_no_mixture():
    with pytest.raises(ShapeError) as error:
        MaskMixture([numbered(2), torch.zeros(3, 5, 7, dtype=torch.long)], (1, 1)).draw(4, torch.Generator().manual_seed(0))
    size = tuple(numbered(2).shape[1:])
    assert str(error.value) == (
        "MaskMixture: the sources' masks differ in size.\n"
        f"  given:   {size}, (5, 7)\n"
        "  needed:  one size\n"
        "Crop them alike: DatasetMasks(masks, transforms=train_transforms((512, 512)))."
    )


def test_a_mixture_needs_a_positive_weight_for_each_source():
    with pytest.raises(ConfigError) as error:
        MaskMixture([numbered(2)], (3, 1))
    assert str(error.value) == (
        "MaskMixture: one weight is needed for each source.\n"
        "  given:   1 sources, 2 weights\n"
        "  needed:  one weight per source, at least one source"
    )
    with pytest.raises(ConfigError, match=r"^MaskMixture: weights\[1\] is out of range\.\n  given:   0\n"):
        MaskMixture([numbered(2)] * 2, (3, 0))
