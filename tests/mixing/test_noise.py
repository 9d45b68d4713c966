"""Noise in the mixer, whose amount may depend on the masks' size, or its seeds: plans, the bank, mining, and generators of a user's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.cutting.cut import split
from feataug.generation.generator import FeatureGenerator
from feataug.masks import DatasetMasks, HardNegativeSampler
from feataug.mixing.mixer import FeatureMixer

SPEC = FeatureSpec((LevelSpec("body", 16, 4),))
SIZES = ((32, 40), (24, 16))


class Own(nn.Module):
    """A generator of a user's own: noise of two numbers for each mask, whatever its size, which end up in the features."""

    spec, num_classes, latent_dim = SPEC, 5, 2

    def forward(self, masks, z):
        assert z.shape == (len(masks), 2)
        like = torch.zeros(len(masks), 16, *SPEC[0].size(masks.shape[-2:]))
        return (like + z.sum(1)[:, None, None, None] + masks[:, :1, :1, None],)


def flow():
    return FeatureGenerator(5, SPEC, width=8, depth=1)


GENERATORS = {"flow": flow, "bicyclegan": lambda: FeatureGenerator(5, SPEC, "bicyclegan", mask_widths=(4,), width=4, depth=0), "own": Own}
# Of a flow's noise, as large as its features, plans and banks hold the seeds alone.
SHAPES = {"flow": lambda count: (count,), "bicyclegan": lambda count: (count, 8), "own": lambda count: (count, 2)}
every_generator = pytest.mark.parametrize("name", GENERATORS)


class Sizes:
    """A source whose masks, some of void, change their size from draw to draw."""

    def __init__(self):
        self.size = SIZES[0]

    def draw(self, n, generator):
        masks = torch.randint(6, (n, *self.size), generator=generator)
        return masks.masked_fill(masks == 5, 255)


def make(name, source=None, ratio=0.5, **kwargs):
    torch.manual_seed(0)
    return FeatureMixer(GENERATORS[name](), source or Sizes(), ratio, seed=3, **kwargs)


def batch(size=SIZES[0], count=4):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(count, 16, *SPEC[0].size(size), generator=rng), torch.randint(5, (count, *size), generator=rng)


@every_generator
def test_a_plan_holds_as_much_noise_as_its_masks_take(name):
    first, again = make(name), make(name)
    for size in (*SIZES, *SIZES):
        first.masks.size = again.masks.size = size
        plan, other = first.plan(4), again.plan(4)
        assert plan.z.shape == SHAPES[name](4)
        assert torch.equal(plan.z, other.z)
        mixed, replayed = first(*batch(size), plan), again(*batch(size), plan)
        assert torch.equal(mixed.features[0], replayed.features[0])
        assert torch.equal(mixed.features[0][4:], first.generator(plan.masks, plan.z)[0])
        assert mixed.features[0].isfinite().all()
        assert (mixed.masks == 255).any()


@every_generator
@pytest.mark.parametrize("bank", [0, 4])
def test_steps_that_take_no_sample(name, bank):
    # One synthetic sample in ten steps: most plans are empty.
    mixer = make(name, ratio=1 / 41, bank=bank)
    counts = [mixer(*batch()).num_synthetic for _ in range(20)]
    assert set(counts) == {0, 1}


@every_generator
def test_what_the_bank_holds_is_what_would_be_generated(name):
    mixer = make(name, bank=6, fresh=0.3)
    for size in (SIZES[0], SIZES[1], SIZES[0]):
        mixer.masks.size = size
        for _ in range(5):
            mixed, bank = mixer(*batch(size)), mixer.bank
            slots = [slot for slot in range(6) if bank.made[slot]]
            assert bank.z.shape == SHAPES[name](6)
            fresh = mixer.generator(bank.masks[slots].long(), bank.z[slots])[0].detach()
            torch.testing.assert_close(bank.features[0][slots], fresh)
            # All that was mixed is there.
            distances = (mixed.features[0][4:, None] - fresh).abs().amax((2, 3, 4))
            assert distances.amin(1).max() < 1e-4


@every_generator
def test_mining_draws_the_noise_that_a_generator_takes(name, tiny_net):
    masks = torch.randint(5, (12, *SIZES[0]), generator=torch.Generator().manual_seed(2))
    cut = split(tiny_net(), "body")
    sampler = HardNegativeSampler(DatasetMasks(masks), candidates=6, keep=3, refresh_every=2)
    mixer = make(name, sampler)
    with mixer.on(cut, masks[:4]) as mixed:
        out = cut.model(torch.rand(4, 3, *SIZES[0]))
    assert len(out) == len(mixed.masks) == 8
    assert sampler.pool_losses.mean() >= sampler.candidate_losses.mean()
