"""The mixer's bank against a list that is kept by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feataug.cutting.cut import split
from feataug.errors import ConfigError, ShapeError
from feataug.generation.generator import FeatureGenerator
from feataug.masks import HardNegativeSampler
from feataug.mixing.mixer import FeatureMixer
from feataug.mixing.pixel_filter import PixelFilter
from feataug.mixing.synthetic_cache import SyntheticCache
from tests.support.mixers import SIZE, SPEC, Counting, Sized, batch, draw_masks, make_mixer

presets = pytest.mark.parametrize("preset", ["flow", "bicyclegan"])


def two_numbers(masks, rng):
    """Noise of a generator that takes two numbers for each mask."""
    return torch.randn(len(masks), 2, generator=rng)


class Numbered:
    """Masks of one pixel that count from 0: none is drawn twice."""

    def __init__(self):
        self.next = 0

    def draw(self, n, generator):
        self.next += n
        return torch.arange(self.next - n, self.next)[:, None, None]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.floats(0, 1), st.lists(st.integers(0, 9), min_size=1, max_size=25), st.integers(0, 99))
def test_the_bank_is_a_list_whose_oldest_make_room(size, fresh, steps, seed):
    bank, source, rng = SyntheticCache(size, fresh), Numbered(), torch.Generator().manual_seed(seed)
    kept: list[int] = []
    for n in (min(n, size) for n in steps):
        before = source.next
        masks, z, places = bank.draw(n, source.draw, two_numbers, rng)
        drawn, new = masks.flatten().tolist(), source.next - before
        assert len(drawn) == len(set(drawn)) == len(set(places.tolist())) == n
        full = len(kept) == size
        assert new == n if not full else new in (0, n)
        assert drawn[n - new :] == list(range(before, before + new))
        kept = [*kept, *range(before, before + new)][-size:]
        assert set(drawn) <= set(kept)
        if bank.masks is not None:
            assert sorted(bank.masks.flatten().tolist()[: len(kept)]) == kept
            assert torch.equal(bank.z[places], z)
            assert bank.masks[places].flatten().tolist() == drawn


@presets
def test_features_are_those_of_the_masks_and_the_noise(preset):
    mixer = make_mixer(preset=preset, pixel_filter=lambda features, masks: masks.masked_fill(masks == 2, 255))
    real, masks = batch()
    for _ in range(12):
        mixed, bank = mixer(real, masks), mixer.bank
        # Which samples these were: those of the bank with the same noise's features, made one by one.
        own = [
            number
            for sample in mixed.features[0][7:]
            for number in range(bank.size)
            if bank.made[number] and torch.equal(bank.features[0][number], sample)
        ]
        assert len(own) == len(set(own)) == mixed.num_synthetic
        for number, sample, label in zip(own, mixed.features[0][7:], mixed.masks[7:], strict=True):
            mask = bank.masks[number].long()[None]
            (expected,) = mixer.generator.inner(mask, bank.z[number][None])
            torch.testing.assert_close(sample, expected[0])
            assert torch.equal(label, mask[0].masked_fill(mask[0] == 2, 255))


@pytest.mark.parametrize("fresh", [0.0, 0.25, 0.8, 1.0])
def test_the_share_of_new_samples_is_that_of_the_steps_that_make_some(fresh):
    bank, source, rng = SyntheticCache(8, fresh), Numbered(), torch.Generator().manual_seed(0)
    for _ in range(2):
        bank.draw(4, source.draw, two_numbers, rng)
    for _ in range(2000):
        bank.draw(4, source.draw, two_numbers, rng)
    assert (source.next - 8) / 8000 == pytest.approx(fresh, abs=0.04)


def test_few_are_made():
    mixer = make_mixer(bank=6, fresh=0.25)
    real, masks = batch()
    for _ in range(60):
        mixer(real, masks)
    assert sum(mixer.generator.made) == mixer.bank.count
    taken = 60 * 3
    assert mixer.bank.count < 0.45 * taken, "6 to begin with, then a quarter"
    everything = make_mixer(bank=6, fresh=1.0)
    for _ in range(10):
        everything(real, masks)
    assert everything.bank.count == sum(everything.generator.made) == 30


def test_a_sample_whose_features_are_not_there_is_made_when_it_is_drawn():
    # A plan that nobody took: another process's samples, or one that was only looked at.
    mixer = make_mixer(bank=6, fresh=0.0)
    real, masks = batch()
    for _ in range(2):
        mixer.plan(7)
    assert mixer.bank.count == 6
    assert mixer.generator.made == []
    for _ in range(30):
        mixer(real, masks)
    assert sum(mixer.generator.made) == 6


@presets
def test_a_plan_is_replayed_from_its_masks_and_noise(preset):
    mixer = make_mixer(preset=preset)
    real, masks = batch()
    plan = mixer.plan(7)
    first = mixer(real, masks, plan)
    for _ in range(9):
        mixer(real, masks)  # long gone from the bank
    again = mixer(real, masks, plan)
    assert torch.equal(first.features[0], again.features[0])
    assert torch.equal(first.masks, again.masks)


@presets
def test_the_state_goes_on_bit_for_bit(preset):
    real, masks = batch()
    first, second, third = (make_mixer(preset=preset) for _ in range(3))
    for _ in range(5):
        first(real, masks)
    second.load_plan_state(first.plan_state())
    # Planted: without the bank others are drawn.
    third.load_plan_state(first.plan_state() | {"bank": make_mixer(preset=preset).plan_state()["bank"]})
    ends = [[mixer(real, masks).features[0] for _ in range(5)] for mixer in (first, second, third)]
    assert all(torch.equal(a, b) for a, b in zip(ends[0], ends[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(ends[0], ends[2], strict=True))


def test_masks_of_another_size_begin_anew():
    bank, rng = SyntheticCache(4, 1.0), torch.Generator().manual_seed(0)
    sizes = iter([(8, 8), (8, 8), (4, 6), (4, 6), (4, 6)])

    def draw(n, generator):
        return torch.zeros(n, *size, dtype=torch.long)

    for size in sizes:
        masks, z, places = bank.draw(2, draw, two_numbers, rng)
        assert masks.shape == (2, *size)
        assert (len(z), len(places)) == (2, 2)
    assert bank.count == 6, "2 and 2 until it is full, then 2"


def test_settings_name_the_bank():
    assert make_mixer().settings()["bank"] == 6
    assert make_mixer().settings()["fresh"] == 0.3
    assert "bank" not in make_mixer(bank=0).settings()


def test_what_does_not_go_together():
    real, masks = batch()
    with pytest.raises(ConfigError) as error:
        make_mixer(bank=2)(real, masks)
    assert str(error.value) == (
        "FeatureMixer: the bank holds fewer samples than a step takes.\n"
        "  given:   bank=2, 3 synthetic samples\n"
        "  needed:  bank of at least 3; some hundreds are useful"
    )
    with pytest.raises(ConfigError) as error:
        FeatureMixer(make_mixer().generator, HardNegativeSampler(draw_masks(4), keep=2, learn=True), bank=8)
    assert str(error.value) == (
        "FeatureMixer: a bank cannot be combined with a sampler that learns.\n"
        "  given:   bank=8, HardNegativeSampler(learn=True)\n"
        "  needed:  one of the two: a bank reuses its samples whatever their losses are"
    )
    for wrong in ({"bank": -1}, {"bank": 2.5}, {"fresh": 1.5}, {"fresh": float("nan")}):
        with pytest.raises(ConfigError, match=f"FeatureMixer: {next(iter(wrong))} "):
            make_mixer(**wrong)


def test_the_filter_is_asked_once_for_each_sample(tiny_net):
    cut = split(tiny_net(), "body")
    pixel_filter = PixelFilter(cut, torch.full((5,), 0.5))
    asked = []
    mixer = make_mixer(fresh=0.0, pixel_filter=lambda features, masks: asked.append(len(masks)) or pixel_filter(features, masks))
    real, masks = batch()
    for _ in range(10):
        assert (mixer(real, masks).masks == 255).any()
    assert sum(asked) == 6


@pytest.mark.parametrize("fresh", [0, 0.0, 0.05, 0.5, 1.0])
def test_masks_of_another_size_fill_the_bank_again(tiny_net, fresh):
    torch.manual_seed(1)
    source = Sized()
    generator = Counting(FeatureGenerator(5, SPEC, width=8, depth=1))
    mixer = FeatureMixer(generator, source, 0.5, bank=6, fresh=fresh, seed=2)
    cut = split(tiny_net(), "body")
    for size in (SIZE, (48, 40), SIZE):
        source.size, made = size, sum(generator.made)
        for _ in range(5):
            with mixer.on(cut, draw_masks(3, size)) as mixed:
                out = cut.model(torch.rand(3, 3, *size))
            assert mixed.num_synthetic == 3
            assert out.shape[-2:] == size
        # Two steps fill it.
        assert sum(generator.made) - made >= 6
    if not fresh:
        assert source.drawn == [3, 3] * 3, "a bank that never changes draws nothing more"


def test_masks_that_do_not_follow_the_batch_are_an_error(tiny_net):
    mixer, cut = make_mixer(fresh=0), split(tiny_net(), "body")
    for _ in range(4):
        with mixer.on(cut, draw_masks(5)):
            cut.model(torch.rand(5, 3, *SIZE))
    with pytest.raises(ShapeError, match=r"^FeatureMixer: drawn masks differ in size from the batch's\."), mixer.on(cut, draw_masks(5, (48, 40))):
        pass
