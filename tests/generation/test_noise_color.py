"""Noise with the correlations of real features."""

from __future__ import annotations

import copy

import pytest
import torch

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.generation.generator import FeatureGenerator
from feataug.generation.noise_color import RIDGE, NoiseColor

SPEC = FeatureSpec((LevelSpec("a", 4, 4), LevelSpec("b", 6, 8)))


def correlations(channels, seed=0):
    """Of features that vary in few directions."""
    rng = torch.Generator().manual_seed(seed)
    few = torch.randn(channels, 2, generator=rng) @ torch.randn(2, 500, generator=rng)
    return torch.corrcoef(few + 0.1 * torch.randn(channels, 500, generator=rng))


def colored(**kwargs):
    torch.manual_seed(0)
    generator = FeatureGenerator(5, SPEC, width=32, depth=1, **kwargs).eval()
    generator.noise_color.fit([correlations(4), None])
    return generator


def test_noise_gets_the_correlations_and_keeps_its_variance():
    wanted = correlations(4)
    color = NoiseColor()
    white = [torch.randn(20, 4, 50, 50), torch.randn(2, 6, 5, 5)]
    assert all(torch.equal(found, given) for found, given in zip(color(white), white, strict=True))
    color.fit([wanted, None])
    first, second = color(white)
    assert torch.equal(second, white[1])
    expected = (wanted + RIDGE * torch.eye(4)) / (1 + RIDGE)
    torch.testing.assert_close(torch.cov(first.transpose(0, 1).flatten(1)), expected, rtol=0, atol=0.03)
    torch.testing.assert_close(color._buffers["root_0"] @ color._buffers["root_0"].T, expected, rtol=1e-4, atol=1e-5)
    assert (wanted - torch.eye(4)).abs().max() > 0.5, "nothing to color"


def test_a_sample_starts_from_colored_noise():
    """The same numbers are another sample without the color."""
    generator = colored()
    masks = torch.zeros(1, 16, 24, dtype=torch.long)
    z = generator.draw_z(masks, torch.Generator().manual_seed(1))
    maps = generator.noise_maps(z, (16, 24))
    white = copy.deepcopy(generator)
    white.noise_color.fit([None, None])
    assert not white.noise_color.fitted
    plain = white.noise_maps(z, (16, 24))
    torch.testing.assert_close(maps[0], torch.einsum("oc,bchw->bohw", generator.noise_color._buffers["root_0"], plain[0]))
    assert torch.equal(maps[1], plain[1])
    assert not torch.allclose(generator(masks, z)[0], white(masks, z)[0])


def test_the_color_is_saved_and_loaded(tmp_path):
    generator = colored()
    generator.save_pretrained(tmp_path)
    again = FeatureGenerator.from_pretrained(tmp_path).eval()
    masks = torch.zeros(2, 16, 24, dtype=torch.long)
    z = generator.draw_z(masks, torch.Generator().manual_seed(1))
    for found, expected in zip(again(masks, z), generator(masks, z), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("first_colored", [True, False])
def test_a_state_decides_whether_there_is_a_color(first_colored):
    """Also one of before there were any, loaded into a generator that has one."""
    with_color, without = colored(), colored()
    without.noise_color.fit([None, None])
    source, target = (with_color, without) if first_colored else (without, with_color)
    target.load_state_dict(source.state_dict())
    assert target.noise_color.fitted is first_colored
    assert target.state_dict().keys() == source.state_dict().keys()
    # As a moving average has it.
    averaged = torch.optim.swa_utils.AveragedModel(colored() if not first_colored else FeatureGenerator(5, SPEC, width=32, depth=1))
    averaged.load_state_dict(torch.optim.swa_utils.AveragedModel(source).state_dict())
    assert averaged.module.noise_color.fitted is first_colored
