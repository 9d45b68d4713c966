"""Two critics side by side against the same critics one after the other."""

from __future__ import annotations

import copy

import pytest
import torch

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.generation.critics import Discriminator
from feataug.losses import lsgan
from feataug.training.critic_pair import CriticPair

K, VOID, HALF = 5, 255, 2
SPECS = {
    "one level": FeatureSpec((LevelSpec("a", 6, 4),)),
    "a pyramid": FeatureSpec((LevelSpec("a", 4, 4), LevelSpec("b", 6, 8), LevelSpec("c", 5, 16))),
}


def make(spec, masks, kind=Discriminator, other=None):
    torch.manual_seed(0)
    # The norms do not change any more: the oracle computes them for every use.
    pair = CriticPair(kind(K, spec, width=4, masks=masks), kind(K, spec, **{"width": 4, "masks": masks} | (other or {}))).eval()
    for parameter in pair.parameters():
        # Large enough for every part of the input to be heard.
        torch.nn.init.normal_(parameter, std=0.5)
    return pair


def batch(spec, size=(37, 51), seed=0):
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(K, (2 * HALF, *size), generator=rng)
    masks = masks.masked_fill(torch.rand(masks.shape, generator=rng) < 0.1, VOID)
    levels = [[torch.randn(HALF, level.channels, *level.size(size), generator=rng) for level in spec] for _ in range(4)]
    return masks, levels


def oracle(pair, masks, encoded, random, real=None):
    """Each critic for each kind of features."""
    first, second = masks[:HALF], masks[HALF:]
    if real is None:
        return lsgan(pair.encoded(first, encoded), 1.0) + lsgan(pair.random(first, random), 1.0)
    encoded, random = ([level.detach() for level in levels] for levels in (encoded, random))
    terms = lsgan(pair.encoded(first, real[0]), 1.0) + lsgan(pair.encoded(first, encoded), 0.0)
    return 0.5 * (terms + lsgan(pair.random(second, real[1]), 1.0) + lsgan(pair.random(first, random), 0.0))


class Subclass(Discriminator):
    """May judge otherwise: it is called as it is."""


@pytest.mark.parametrize("masks", ["aspp", "shares"])
@pytest.mark.parametrize("kind", [Discriminator, Subclass])
@pytest.mark.parametrize("name", SPECS)
def test_losses_and_gradients_are_those_of_each_critic(name, kind, masks):
    spec = SPECS[name]
    pair, (labels, (encoded, random, *real)) = make(spec, masks, kind), batch(spec)
    assert pair.side_by_side is (kind is Discriminator)
    twin = copy.deepcopy(pair)
    results = []
    for critics, judge in ((pair, lambda *given: pair(pair.share(labels), *given)), (twin, lambda *given: oracle(twin, labels, *given))):
        samples = [[level.clone().requires_grad_() for level in levels] for levels in (encoded, random)]
        generators = judge(*samples)
        reached = torch.autograd.grad(generators, [level for levels in samples for level in levels])
        own = judge(*samples, real)
        own.backward()
        assert all(level.grad is None for levels in samples for level in levels)
        results.append([generators, own, *reached, *(parameter.grad for parameter in critics.parameters())])
    for found, expected in zip(*results, strict=True):
        assert expected.abs().sum() > 0
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_the_generators_loss_teaches_no_critic():
    spec = SPECS["one level"]
    for kind in (Discriminator, Subclass):
        pair, (labels, (encoded, random, *_)) = make(spec, "shares", kind), batch(spec)
        pair.random.mask_encoder.requires_grad_(False)
        pair(pair.share(labels), [encoded[0].requires_grad_()], random).backward()
        assert all(parameter.grad is None for parameter in pair.parameters())
        # What a user does not train stays so.
        assert {parameter.requires_grad for parameter in pair.random.mask_encoder.parameters()} == {False}
        assert all(parameter.requires_grad for parameter in pair.encoded.parameters())


def test_each_critic_sees_its_own_masks_and_features():
    """Swapped real features, swapped halves of the masks and swapped samples are all noticed."""
    spec = SPECS["one level"]
    pair, (labels, (encoded, random, first, second)) = make(spec, "shares"), batch(spec)
    with torch.no_grad():
        right = pair(pair.share(labels), encoded, random, (first, second))
        wrong = [
            pair(pair.share(labels), encoded, random, (second, first)),
            pair(pair.share(labels.roll(HALF, 0)), encoded, random, (first, second)),
            pair(pair.share(labels), random, encoded, (first, second)),
        ]
    print([float(loss / right) - 1 for loss in wrong])
    assert all(abs(float(loss / right) - 1) > 0.002 for loss in wrong)


@pytest.mark.parametrize("other", [{"width": 8}, {"masks": "aspp"}, {"scales": 1}], ids=str)
def test_critics_of_different_shapes_are_called_one_after_the_other(other):
    spec = SPECS["one level"]
    pair, (labels, levels) = make(spec, "shares", other=other), batch(spec)
    assert not pair.side_by_side
    torch.testing.assert_close(pair(pair.share(labels), *levels[:2]), oracle(pair, labels, *levels[:2]))
