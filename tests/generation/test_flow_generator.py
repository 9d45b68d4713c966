"""Generators that follow a flow: their noise, steps, network and settings."""

from __future__ import annotations

import pytest
import torch

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.errors import ConfigError
from feataug.generation import flow
from feataug.generation.generator import FeatureGenerator
from feataug.generation.layers.velocity import VelocityNet, _widths

K = 5
ONE = FeatureSpec((LevelSpec("a", 6, 8),))
PYRAMID = FeatureSpec((LevelSpec("a", 4, 4), LevelSpec("b", 6, 8), LevelSpec("c", 3, 8)))
TOKENS = FeatureSpec((LevelSpec("v", 8, 16, offset=0), LevelSpec("v.prefix", 8, 0, tokens=2)))
# Strides that are no powers of two, and two maps of one stride whose sizes are rounded in two ways.
ODD = FeatureSpec((LevelSpec("a", 4, 7), LevelSpec("b", 6, 14, offset=0), LevelSpec("c", 3, 14), LevelSpec("d", 5, 14)))
SPECS = {"one level": ONE, "pyramid": PYRAMID, "tokens": TOKENS, "odd strides": ODD}


def make(spec=ONE, **kwargs):
    """A generator whose blocks are no longer the identity."""
    torch.manual_seed(0)
    generator = FeatureGenerator(K, spec, **{"width": 8, "depth": 2, **kwargs}).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return generator


def draw(generator, size=(44, 60), count=2):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(K, (count, *size), generator=rng), generator.draw_z(count, rng, image_size=size)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("steps", [2, 3, 4])
@torch.no_grad()
def test_so_many_steps_are_made_of_which_the_first_needs_the_mask_alone(spec, steps, monkeypatch):
    generator = make(spec, steps=steps)
    masks, z = draw(generator)
    asked, run = [], VelocityNet.forward
    monkeypatch.setattr(VelocityNet, "forward", lambda self, x, t, codes: asked.append(float(t[0])) or run(self, x, t, codes))
    features = generator(masks, z)
    times = flow.time_steps(steps)
    assert asked == pytest.approx(times[1:-1])
    assert [tuple(f.shape) for f in features] == [(2, level.channels, *level.size((44, 60))) for level in spec]
    # By hand: Euler's step to the second time, then steps along the line through the last two velocities.
    noise, codes = flow.noise_maps(z, spec, (44, 60)), generator.encode_masks(masks)
    last = [mean - e for mean, e in zip(codes.expected, noise, strict=True)]
    at = [e + times[1] * v for e, v in zip(noise, last, strict=True)]
    for before, start, end in zip(times, times[1:], times[2:], strict=False):
        now = run(generator.velocity_net, at, torch.full((2,), start), codes)
        middle = ((start + end) / 2 - start) / (start - before)
        at = [x + (end - start) * (v + middle * (v - u)) for x, v, u in zip(at, now, last, strict=True)]
        last = now
    for feature, level in zip(generator(masks, z, standardized=True), at, strict=True):
        torch.testing.assert_close(feature, level, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [6, 4])
def test_noise_passes_by_the_blocks_of_a_network_that_is_narrower_than_the_features(width):
    torch.manual_seed(0)
    net = FeatureGenerator(K, ONE, width=width, depth=1).velocity_net
    (scale,) = net.scales
    assert (scale.past is None) == (width == 6)
    if scale.past is not None:
        with torch.no_grad():
            scale.leave.weight.zero_()
            scale.past.bias.fill_(-1.0)
            noise = [torch.randn(2, 6, 3, 4)]
            (velocity,) = net(noise, torch.rand(2), net.condition(torch.zeros(2, 24, 32, dtype=torch.long)))
        assert torch.equal(velocity, -noise[0])


@torch.no_grad()
def test_a_mask_is_encoded_once_for_all_samples_and_steps(monkeypatch):
    generator = make(steps=4)
    masks, _ = draw(generator)
    seen, encode = [], VelocityNet.condition
    monkeypatch.setattr(VelocityNet, "condition", lambda self, masks: seen.append(len(masks)) or encode(self, masks))
    assert len(generator(masks, samples=3)[0]) == 6
    assert seen == [2]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@torch.no_grad()
def test_all_levels_depend_on_all_noise_and_the_mask(spec):
    generator = make(spec)
    masks, z = draw(generator)
    features, parts = generator(masks, z), flow.noise_maps(z, spec, (44, 60))
    others = [generator((masks + 1) % K, z)]
    for number in range(len(parts)):
        others.append(generator(masks, torch.cat([(part + (i == number)).flatten(1) for i, part in enumerate(parts)], dim=1)))
    for other in others:
        assert not any(torch.allclose(a, b) for a, b in zip(features, other, strict=True))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@torch.no_grad()
def test_every_level_has_a_mean_that_follows_from_the_mask(spec):
    generator = make(spec)
    masks, _ = draw(generator)
    codes, other = generator.encode_masks(masks), generator.encode_masks((masks + 1) % K)
    assert [tuple(mean.shape) for mean in codes.expected] == [
        (2, level.channels, *((1, level.tokens) if level.tokens else level.size((44, 60)))) for level in spec
    ]
    for values, others in zip(codes, other, strict=True):
        assert not any(torch.allclose(a, b) for a, b in zip(values, others, strict=True))
    for value, twice in zip([*codes.hidden, *codes.expected], [x for part in codes.repeat(2) for x in part], strict=True):
        assert torch.equal(twice, torch.cat([value, value]))


@torch.no_grad()
def test_a_larger_mask_goes_on_where_a_smaller_one_ends():
    """Far from its edges the features of a part are those of the whole: nothing depends on a mask's size or on the place in it."""
    generator = make(steps=2)
    masks, z = draw(generator, (16 * 8, 20 * 8), count=1)
    (noise,) = flow.noise_maps(z, ONE, (16 * 8, 20 * 8))
    (whole,) = generator(masks, z)
    (part,) = generator(masks[:, : 12 * 8, 4 * 8 :], noise[..., :12, 4:].flatten(1))
    assert part.shape == (1, 6, 12, 16)
    # Two convolutions of 5 x 5 of the mask's and two of the velocity's network see 8 cells far; the upper and the right edge are the same.
    torch.testing.assert_close(part[..., :4, 8:], whole[..., :4, 12:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(part[..., 11, :], whole[..., 11, 4:])


def test_noise_needs_the_masks_size():
    generator = make(TOKENS)
    # 2 x 3 cells of 8 channels, and 2 tokens of 8.
    assert generator.latent_size((36, 50)) == 8 * 2 * 3 + 2 * 8
    assert not hasattr(generator, "latent_dim")
    with pytest.raises(ConfigError) as error:
        generator.draw_z(2)
    assert str(error.value) == (
        "FeatureGenerator: how much noise a flow takes depends on the masks' size.\n"
        "  given:   draw_z without image_size\n"
        "  needed:  draw_z(masks, rng), or draw_z(count, rng, image_size=masks.shape[-2:])"
    )
    masks, rng = torch.zeros(3, 36, 50, dtype=torch.long), torch.Generator()
    drawn = generator.draw_z(masks, rng.manual_seed(1), samples=2)
    assert drawn.shape == (6, 8 * 2 * 3 + 2 * 8)
    assert torch.equal(drawn, generator.draw_z(6, rng.manual_seed(1), image_size=(36, 50)))


def test_widths_follow_the_channels_of_each_stride():
    # 1.75 times as many as are generated, in multiples of 16, from 32 to 512.
    assert _widths([24, 40, 112, 256], None) == [48, 64, 192, 448]
    assert _widths([1, 16, 128], None) == [32, 32, 224]
    assert _widths([24, 40, 112, 320], None) == [48, 64, 192, 512]
    assert _widths([512, 2048], None) == [512, 512]
    # With a width of one's own: the widest scale has it exactly, the others are in proportion.
    assert _widths([24, 40, 112, 320], 160) == [32, 32, 64, 160]
    assert _widths([6], 8) == [8]
    assert _widths([64, 2048], 1024) == [32, 1024]
    net = make(PYRAMID, width=None).velocity_net
    assert [scale.enter.out_features for scale in net.scales] == _widths([4, 6 + 3], None)
    assert [len(scale.blocks) for scale in net.scales] == [2, 2]


ERRORS = {
    "a U-Net's setting": (
        {"latent_dim": 8},
        "FeatureGenerator: latent_dim is not a setting of this preset.\n  given:   latent_dim=8, preset 'flow'\n"
        "  needed:  width, depth, steps",
    ),
    "maps": (
        {"mask_widths": (4,)},
        "FeatureGenerator: mask_widths is not a setting of this preset.\n  given:   mask_widths=(4,), preset 'flow'\n"
        "  needed:  width, depth, steps",
    ),
    "one step, where all samples would be the mean": (
        {"steps": 1},
        "FeatureGenerator: steps is out of range.\n  given:   1\n  needed:  an integer in [2, inf)",
    ),
    "no block": ({"depth": 0}, "FeatureGenerator: depth is out of range.\n  given:   0\n  needed:  an integer in [1, inf)"),
    "no channel": ({"width": 0}, "FeatureGenerator: width is out of range.\n  given:   0\n  needed:  an integer in [1, inf)"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_messages(name):
    settings, text = ERRORS[name]
    with pytest.raises(ConfigError) as error:
        FeatureGenerator(K, ONE, **settings)
    assert str(error.value) == text


@pytest.mark.parametrize("steps", [1, 0, 2.5, True])
def test_a_number_of_steps_that_no_flow_takes_is_refused_also_when_it_was_assigned(steps):
    generator = make()
    generator.steps = steps
    with pytest.raises(ConfigError) as error:
        generator(torch.zeros(1, 32, 48, dtype=torch.long))
    assert str(error.value) == f"FeatureGenerator: steps is out of range.\n  given:   {steps!r}\n  needed:  an integer in [2, inf)"
