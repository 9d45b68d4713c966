"""Flow matching: noise by level, the loss, the sampler, the network."""

from __future__ import annotations

import pytest
import torch

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.generation import flow
from feataug.generation.layers.velocity import VelocityNet, time_embedding

SIZE = (36, 50)
ONE = FeatureSpec((LevelSpec("a", 6, 8),))
PYRAMID = FeatureSpec((LevelSpec("a", 4, 4), LevelSpec("b", 6, 8), LevelSpec("c", 3, 8), LevelSpec("d", 8, 32)))
TOKENS = FeatureSpec((LevelSpec("v", 8, 16, offset=0), LevelSpec("v.prefix", 8, 0, tokens=2)))
SPECS = {"one level": ONE, "pyramid": PYRAMID, "tokens": TOKENS}


def draw(spec, count=3, size=SIZE, seed=0):
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 5, (count, *size), generator=rng)
    noise = flow.noise_maps(torch.randn(count, flow.latent_size(spec, size), generator=rng), spec, size)
    return masks, noise


def velocity_of(net, masks, noise):
    codes = net.condition(masks)
    return lambda noisy, times: net(noisy, times, codes)


def trained_a_little(spec, seed=0):
    """A network whose blocks are no longer the identity."""
    torch.manual_seed(seed)
    net = VelocityNet(5, spec, width=32, depth=2)
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return net.eval()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_noise_has_the_shapes_of_the_features_and_every_number_once(spec):
    count = flow.latent_size(spec, SIZE)
    maps = flow.noise_maps(torch.arange(2.0 * count).view(2, count), spec, SIZE)
    assert [tuple(x.shape) for x in maps] == [(2, level.channels, *level.size(SIZE)) for level in spec]
    assert torch.equal(torch.cat([x.flatten(1) for x in maps], dim=1), torch.arange(2.0 * count).view(2, count))


def test_times_are_logit_normal():
    times = flow.draw_times(20_000, torch.Generator().manual_seed(0))
    assert 0 < times.min() < times.max() < 1
    assert float(torch.logit(times).mean()) == pytest.approx(0, abs=0.03)
    assert float(torch.logit(times).std()) == pytest.approx(1, abs=0.03)


def gaussian(mean, std):
    """The true velocity towards features that are N(mean, std^2), from the formula for a conditional mean."""

    def velocity(noisy, times):
        t = times[:, None, None, None]
        variance = (1 - t) ** 2 + (t * std) ** 2
        return [mean + (t * std**2 - (1 - t)) / variance * (x - t * mean) for x in noisy]

    return velocity


def test_the_sampler_follows_a_known_flow():
    spec, size = FeatureSpec((LevelSpec("a", 4, 1),)), (40, 50)
    (noise,) = flow.noise_maps(torch.randn(2, flow.latent_size(spec, size), generator=torch.Generator().manual_seed(0)), spec, size)
    expected = [torch.full_like(noise, 3.0)]
    (made,) = flow.follow(gaussian(3.0, 0.5), [noise], expected, 200)
    # This flow is linear: it moves every number of noise to mean + std * noise.
    assert torch.allclose(made, 3.0 + 0.5 * noise, atol=0.02)
    (coarse,) = flow.follow(gaussian(3.0, 0.5), [noise], expected, 4)
    assert float((coarse - 3.0 - 0.5 * noise).abs().mean()) > float((made - 3.0 - 0.5 * noise).abs().mean())


def test_the_loss_is_least_at_the_true_velocity():
    rng = torch.Generator().manual_seed(1)
    real = [3.0 + 0.5 * torch.randn(4000, 2, 1, 1, generator=rng)]
    noise, times = [torch.randn(4000, 2, 1, 1, generator=rng)], flow.draw_times(4000, rng)
    best = float(flow.flow_loss(gaussian(3.0, 0.5), real, noise, times))
    for wrong in (gaussian(2.9, 0.5), gaussian(3.0, 0.6), gaussian(3.0, 0.4)):
        assert float(flow.flow_loss(wrong, real, noise, times)) > best
    # By hand, for one sample: x_t = 0.75 e + 0.25 x, and the network says 1.
    x, e = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0)
    seen = []
    loss = flow.flow_loss(lambda noisy, t: seen.append(noisy[0]) or [torch.ones(1, 1, 1, 1)], [x], [e], torch.tensor([0.25]))
    assert seen[0].item() == pytest.approx(-0.25)
    assert loss.item() == pytest.approx((1 - 3) ** 2)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_velocity_for_every_level_that_depends_on_all_inputs(spec):
    net = trained_a_little(spec)
    masks, noise = draw(spec)
    times = torch.tensor([0.1, 0.5, 0.9])
    found = velocity_of(net, masks, noise)(noise, times)
    assert [x.shape for x in found] == [x.shape for x in noise]
    moved = [velocity_of(net, masks, noise)(noise, times + 0.05), velocity_of(net, (masks + 1) % 5, noise)(noise, times)]
    for number in range(len(noise)):
        other = [x + 1 if i == number else x for i, x in enumerate(noise)]
        moved.append(velocity_of(net, masks, noise)(other, times))
    for change in moved:
        assert all((a - b).abs().max() > 1e-6 for a, b in zip(found, change, strict=True))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_samples_do_not_mix(spec):
    net = trained_a_little(spec)
    masks, noise = draw(spec)
    times = torch.tensor([0.1, 0.5, 0.9])
    whole = velocity_of(net, masks, noise)(noise, times)
    for i in range(3):
        own = [x[i : i + 1] for x in noise]
        alone = velocity_of(net, masks[i : i + 1], own)(own, times[i : i + 1])
        assert all(torch.allclose(a[i : i + 1], b, atol=1e-5) for a, b in zip(whole, alone, strict=True))


def test_a_new_network_says_nothing():
    net = VelocityNet(5, PYRAMID)
    masks, noise = draw(PYRAMID)
    assert all(x.abs().mean() < 0.5 for x in velocity_of(net, masks, noise)(noise, torch.full((3,), 0.5)))


def test_times_are_told_apart():
    found = time_embedding(torch.linspace(0, 1, 50))
    distances = torch.cdist(found, found) + 10 * torch.eye(50)
    assert found.shape == (50, 32)
    assert float(distances.min()) > 0.1


def test_a_network_learns_classes_with_two_modes():
    """Features of class 0 are near -2 or 2, of class 1 near 0: a mean would lie between the modes, where no feature is."""
    spec, rng = FeatureSpec((LevelSpec("a", 2, 1),)), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = VelocityNet(2, spec, width=32, depth=2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)

    def features(masks):
        side = torch.randint(0, 2, (len(masks), 1, 1, 1), generator=rng) * 2.0 - 1
        return side * 2.0 * (masks[:, None] == 0) + 0.1 * torch.randn(len(masks), 2, *masks.shape[1:], generator=rng)

    for _ in range(300):
        masks = torch.randint(0, 2, (64, 2, 2), generator=rng)
        noise, times = [torch.randn(64, 2, 2, 2, generator=rng)], flow.draw_times(64, rng)
        real = [features(masks)]
        loss = flow.flow_loss(velocity_of(net, masks, noise), real, noise, times)
        loss = loss + (net.condition(masks).expected[0] - real[0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    masks = torch.randint(0, 2, (400, 2, 2), generator=rng)
    noise = [torch.randn(400, 2, 2, 2, generator=rng)]
    with torch.no_grad():
        (made,) = flow.follow(velocity_of(net, masks, noise), noise, net.condition(masks).expected, 20)
    of_class = made.movedim(1, -1)[masks == 0]
    # Both modes, about equally often, and little between them.
    assert float((of_class.abs() > 1.2).float().mean()) > 0.85
    assert 0.35 < float((of_class > 0).float().mean()) < 0.65
    assert float(made.movedim(1, -1)[masks == 1].abs().mean()) < 0.4
    # All cells of a sample are in the same mode: the network sees its neighbours.
    both = masks[:, 0, 0] + masks[:, 1, 1] == 0
    assert float((made[both, 0, 0, 0].sign() == made[both, 0, 1, 1].sign()).float().mean()) > 0.85
