"""Samplers inside of other mask sources: scores, losses and states reach them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import feataug
from feataug.errors import ConfigError
from feataug.masks import ClassBalancedMasks, DatasetMasks, HardNegativeSampler, LayoutComposer, MaskMixture
from feataug.mixing.mixer import FeatureMixer

SIZE = (16, 24)


def draw_masks(count=12, seed=0):
    return torch.randint(5, (count, *SIZE), generator=torch.Generator().manual_seed(seed))


def sampler(seed=0, **kwargs):
    return HardNegativeSampler(draw_masks(seed=seed), **({"candidates": 6, "keep": 3, "refresh_every": 2} | kwargs))


def plain():
    return DatasetMasks(draw_masks(seed=9))


HOLDERS = {
    "mixture": lambda inner: MaskMixture([plain(), inner], (1, 1)),
    "mixture in a mixture": lambda inner: MaskMixture([MaskMixture([inner, plain()], (2, 1)), plain()], (1, 1)),
    "layouts": lambda inner: LayoutComposer(inner, plain(), [1]),
    "donors in a mixture": lambda inner: MaskMixture([plain(), LayoutComposer(plain(), inner, [1])], (1, 1)),
    "sampler of a sampler": lambda inner: HardNegativeSampler(inner, 6, 3, 2),
    "sampler of a mixture": lambda inner: HardNegativeSampler(MaskMixture([inner, plain()], (1, 1)), 6, 3, 2),
}


def make(masks, learn=False, ratio=0.5, **kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 5, 1))
    cut = feataug.split(model, "0")
    generator = feataug.FeatureGenerator(5, cut.spec, width=8, depth=1)
    return FeatureMixer(generator, masks, ratio, seed=3, **kwargs), cut


def step(mixer, cut, count=4, train=True):
    masks = draw_masks(count, seed=20)
    with mixer.on(cut, masks) as batch:
        out = cut.model(torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(1)))
    return mixer.loss(out, batch), batch


@pytest.mark.parametrize("holder", HOLDERS)
def test_the_mixers_score_reaches_samplers_inside(holder):
    inner = sampler()
    mixer, cut = make(HOLDERS[holder](inner))
    step(mixer, cut)
    assert inner.score is not None
    assert inner.pool is not None
    # A mixer of another model puts in its own score.
    first = inner.score
    other, other_cut = make(mixer.masks)
    with torch.no_grad():
        other_cut.model[1].weight.mul_(3)
    step(other, other_cut)
    candidates = draw_masks(4, seed=5)
    assert not torch.equal(first(candidates), inner.score(candidates))
    # The user's own score stays.
    own = sampler(score=lambda masks: masks.float().mean((1, 2)))
    kept = own.score
    step(*make(HOLDERS[holder](own)))
    assert own.score is kept


@pytest.mark.parametrize("holder", HOLDERS)
def test_the_state_of_samplers_inside_is_saved(holder):
    def made():
        torch.manual_seed(4)
        return make(HOLDERS[holder](sampler()))

    mixer, cut = made()
    for _ in range(3):
        step(mixer, cut)
    state = copy.deepcopy(mixer.plan_state())
    following = [step(mixer, cut)[1].masks for _ in range(4)]
    again, cut = made()
    again.load_plan_state(state)
    assert all(torch.equal(step(again, cut)[1].masks, masks) for masks in following)
    # Planted: without the state of the sampler others are drawn.
    third, cut = made()
    third.rng.set_state(state["rng"])
    assert not all(torch.equal(step(third, cut)[1].masks, masks) for masks in following)


def test_sources_without_a_state_need_none():
    mixer, _ = make(MaskMixture([plain(), draw_masks()], (1, 1)))
    before = mixer.plan_state()
    assert before["masks"] == {}
    mixer.load_plan_state({"rng": before["rng"]})  # of a version in which mixtures had no state
    mixer.load_plan_state(before)


class Told(HardNegativeSampler):
    """Notes what it draws and what it is told."""

    def __init__(self, masks, **kwargs):
        super().__init__(masks, 6, 3, **kwargs)
        self.drawn, self.told = [], []

    def draw(self, n, generator):
        self.drawn.append(super().draw(n, generator))
        return self.drawn[-1]

    def observe(self, masks, losses):
        self.told.append((masks, losses.clone()))
        super().observe(masks, losses)


@pytest.mark.parametrize("nested", [False, True])
def test_each_sampler_is_told_the_losses_of_the_masks_that_it_drew(nested):
    told = [Told(torch.full((12, *SIZE), number), learn=True) for number in range(3)]
    inner = [told[0], MaskMixture(told[1:], (1, 1))] if nested else told
    mixture = MaskMixture([*inner, plain()], (2, 1, 1) if nested else (2, 1, 1, 1))
    assert mixture.learn
    rng = torch.Generator().manual_seed(2)
    for count in (9, 1, 16):
        masks = mixture.draw(count, rng)
        # The loss of a mask is a function of it, so that its owner can check it; masks of plain() have fractions.
        losses = masks.float().mean((1, 2)) * 10
        mixture.observe(masks, losses)
    for number, source in enumerate(told):
        assert len(source.told) == len(source.drawn) > 0
        for drawn, (masks, found) in zip(source.drawn, source.told, strict=True):
            assert masks is drawn
            assert found.tolist() == [10.0 * number] * len(drawn)
        source._update_pool()
        assert source.pool_losses.tolist() == [10.0 * number] * len(source.pool)


def test_losses_of_another_draw_are_passed_over():
    told = Told(draw_masks(), learn=True)
    mixture = MaskMixture([told, plain()], (1, 1))
    rng = torch.Generator().manual_seed(2)
    first = mixture.draw(4, rng)
    second = mixture.draw(4, rng)
    mixture.observe(first, torch.ones(4))
    assert told.told == []
    mixture.observe(second, torch.ones(4))
    mixture.observe(second, torch.ones(4))
    assert len(told.told) == 1
    third = mixture.draw(4, rng)
    mixture.load_state_dict(mixture.state_dict())
    mixture.observe(third, torch.ones(4))
    assert len(told.told) == 1
    assert not MaskMixture([plain(), sampler()], (1, 1)).learn


def test_training_teaches_a_sampler_in_a_mixture():
    inner = sampler(learn=True)
    mixer, cut = make(MaskMixture([inner, plain()], (3, 1)))
    for _ in range(3):
        _, batch = step(mixer, cut)
        assert batch.global_masks is not None
    inner._update_pool()
    assert len(inner.pool) == 3
    assert inner.score is None
    with pytest.raises(ConfigError) as error:
        make(MaskMixture([inner, plain()], (3, 1)), bank=8)
    assert str(error.value) == (
        "FeatureMixer: a bank cannot be combined with a sampler that learns.\n  given:   bank=8, MaskMixture(learn=True)\n"
        "  needed:  one of the two: a bank reuses its samples whatever their losses are"
    )


@pytest.mark.parametrize("nested", [False, True])
def test_a_sampler_that_learns_cannot_be_where_losses_do_not_reach_it(nested):
    inner = MaskMixture([sampler(learn=True), plain()], (1, 1)) if nested else sampler(learn=True)
    kind = type(inner).__name__
    for who, make_it in (
        ("LayoutComposer", lambda: LayoutComposer(inner, plain(), [1])),
        ("LayoutComposer", lambda: LayoutComposer(plain(), inner, [1])),
        ("HardNegativeSampler", lambda: HardNegativeSampler(inner)),
    ):
        with pytest.raises(ConfigError) as error:
            make_it()
        assert str(error.value) == (
            f"{who}: the losses of its masks cannot reach a sampler that learns.\n  given:   {kind}(learn=True) as its source\n"
            "  needed:  learn=False there\nMaskMixture and FeatureMixer itself pass losses on."
        )


def test_loading_a_state_forgets_what_another_run_observed():
    source = sampler(learn=True)
    start = copy.deepcopy(source.state_dict())
    masks = source.draw(4, torch.Generator().manual_seed(0))
    source.observe(masks, torch.ones(4))
    source.load_state_dict(start)
    source.draw(4, torch.Generator().manual_seed(1))
    assert source.pool is None


@pytest.mark.parametrize("wrap", [lambda source: source, lambda source: MaskMixture([source, plain()], (1, 1))])
def test_a_users_source_gets_the_score_if_it_has_bind(wrap):
    class Plain:
        score = None

        def draw(self, n, generator):
            return draw_masks(n)

    class Bound(Plain):
        def bind(self, score):
            self.score = score

    source, without = Bound(), Plain()
    step(*make(wrap(source)))
    assert source.score(draw_masks(3)).shape == (3,)
    step(*make(wrap(without)))
    assert vars(without) == {}


def test_balanced_masks_still_compose():
    balanced = ClassBalancedMasks(draw_masks(), 5)
    composer = LayoutComposer(balanced, balanced, [1])
    assert list(composer.inner()) == ["masks"]
    assert composer.state_dict() == {}
