"""Noise for any generator: one that says how much it takes for a mask, or one of a user's own that has only ``latent_dim``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from feataug.core.latents import draw_latents, latent_size, noise_from_seeds

OWN = SimpleNamespace(latent_dim=3)
BY_SIZE = SimpleNamespace(latent_size=lambda size: size[0] * size[1] // 16, latent_dim=99)


@pytest.mark.parametrize(("generator", "count"), [(OWN, 3), (BY_SIZE, 4)])
def test_a_generator_says_how_much_noise_it_takes(generator, count):
    masks = torch.zeros(5, 8, 8, dtype=torch.long)
    assert latent_size(generator, (8, 8)) == count
    z = draw_latents(generator, masks, torch.Generator().manual_seed(0), samples=2)
    assert z.shape == (10, count)
    assert torch.equal(z, draw_latents(generator, masks, torch.Generator().manual_seed(0), samples=2))
    assert not torch.equal(z, draw_latents(generator, masks, torch.Generator().manual_seed(1), samples=2))


@pytest.mark.parametrize("generator", [OWN, BY_SIZE, SimpleNamespace(latent_size=BY_SIZE.latent_size)])
@pytest.mark.parametrize("empty", [torch.zeros(0, 8, 8), torch.zeros(0, 0, 0), torch.zeros(0)], ids=lambda masks: str(list(masks.shape)))
def test_no_masks_take_no_noise_whatever_their_shape(generator, empty):
    rng = torch.Generator().manual_seed(0)
    before = rng.get_state()
    assert len(draw_latents(generator, empty.long(), rng)) == 0
    assert torch.equal(rng.get_state(), before)


def test_a_generator_that_takes_seeds_gets_seeds():
    generator, masks = SimpleNamespace(takes_seeds=True), torch.zeros(5, 8, 8, dtype=torch.long)
    seeds = draw_latents(generator, masks, torch.Generator().manual_seed(0), samples=2)
    assert (seeds.shape, seeds.dtype) == ((10,), torch.int64)
    assert len(set(seeds.tolist())) == 10
    assert int(seeds.min()) >= 0
    assert torch.equal(seeds, draw_latents(generator, masks, torch.Generator().manual_seed(0), samples=2))
    rng = torch.Generator().manual_seed(0)
    before = rng.get_state()
    assert draw_latents(generator, masks[:0], rng).shape == (0,)
    assert torch.equal(rng.get_state(), before)


def test_a_row_of_noise_depends_on_its_seed_alone():
    rows = noise_from_seeds(torch.tensor([5, 2**63 - 2, 5, 0]), 4000, torch.device("cpu"))
    assert torch.equal(rows[0], rows[2])
    assert torch.equal(rows[1], noise_from_seeds(torch.tensor([2**63 - 2]), 4000, torch.device("cpu"))[0])
    assert torch.equal(rows[3], torch.randn(4000, generator=torch.Generator().manual_seed(0)))
    # Independent, of mean 0 and variance 1.
    different = rows[[0, 1, 3]]
    torch.testing.assert_close(different @ different.T / 4000, torch.eye(3), rtol=0, atol=0.08)
    assert float(different.mean().abs()) < 0.03
