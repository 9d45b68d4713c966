"""Hard negatives: masks on which the decoder fails are kept, at the right times, and the model stays as it is."""

from __future__ import annotations

import pytest
import torch

from feataug.core.latents import draw_latents
from feataug.cutting.cut import split
from feataug.errors import ConfigError, FeatAugWarning, ShapeError
from feataug.generation.generator import FeatureGenerator
from feataug.losses import per_sample_loss
from feataug.masks import DatasetMasks, HardNegativeSampler, as_source
from feataug.mixing.mixer import FeatureMixer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(count, start=0):
    """Masks that are told apart by their one value."""
    return torch.arange(start, start + count)[:, None, None].expand(-1, 2, 3).clone()


class Plain:
    """Masks 0, 1, 2, ... in order: any object with ``draw`` is a mask source."""

    def __init__(self):
        self.drawn = 0

    def draw(self, n, generator):
        self.drawn += n
        return numbered(n, self.drawn - n)


def first_value(masks):
    return masks[:, 0, 0].float()


def share_of_one(masks):
    """A hard mask is one with many pixels of class 1."""
    return (masks == 1).float().mean((1, 2))


def test_kept_are_exactly_the_candidates_with_the_highest_loss(rng):
    masks = torch.randint(2, (200, 6, 6), generator=rng)
    seen = []

    def score(candidates):
        seen.append(candidates)
        return share_of_one(candidates)

    sampler = HardNegativeSampler(masks, candidates=40, keep=8, score=score)
    drawn = sampler.draw(5, seeded())
    (candidates,) = seen
    assert candidates.shape == (40, 6, 6)
    losses = share_of_one(candidates)
    top = losses.sort(descending=True).values[:8]
    torch.testing.assert_close(sampler.pool_losses.sort(descending=True).values, top)
    torch.testing.assert_close(share_of_one(sampler.pool), sampler.pool_losses)
    assert share_of_one(drawn).min() >= top[-1] > losses.mean()
    # The check would find a sampler that does not mine.
    plain = DatasetMasks(masks).draw(200, seeded())
    assert share_of_one(plain).mean() < top[-1]


@pytest.mark.parametrize("n", [0, 1, 4, 10])
def test_the_pool_repeats_only_when_it_is_used_up(n):
    sampler = HardNegativeSampler(Plain(), candidates=16, keep=4, score=first_value)
    drawn = sampler.draw(n, seeded())[:, 0, 0].tolist()
    assert len(drawn) == n
    assert all(n // 4 <= drawn.count(value) <= -(-n // 4) for value in (12, 13, 14, 15))


def test_it_mines_at_the_first_draw_and_then_every_so_often():
    times, steps = [], []

    def score(masks):
        times.append(len(steps))
        return first_value(masks)

    sampler = HardNegativeSampler(Plain(), candidates=4, keep=2, refresh_every=3, score=score)
    for step in range(8):
        sampler.draw(2, seeded())
        steps.append(step)
    assert times == [0, 3, 6]


def test_switching_it_off_is_deprecated_and_draws_from_the_source():
    def never(masks):
        raise AssertionError("scored")

    with pytest.warns(FeatAugWarning) as caught:
        sampler = HardNegativeSampler(numbered(10), candidates=4, keep=2, score=never, enabled=False)
    assert [str(w.message) for w in caught] == [
        "HardNegativeSampler: enabled=False is deprecated. Use the mask source itself where no mining is wanted."
    ]
    assert torch.equal(sampler.draw(50, seeded()), DatasetMasks(numbered(10)).draw(50, seeded()))


def test_with_nothing_to_score_by_it_warns():
    sampler = HardNegativeSampler(numbered(10))
    with pytest.warns(FeatAugWarning) as caught:
        assert sampler.draw(3, seeded()).shape == (3, 2, 3)
    assert [str(w.message) for w in caught] == [
        "HardNegativeSampler: there is no score, so masks are drawn at random. Pass cut= to FeatureMixer or score= here, "
        "or call refresh(score)."
    ]
    sampler.refresh(first_value, seeded())
    sampler.draw(3, seeded())


def test_scores_of_another_shape_and_settings_out_of_range_are_errors():
    with pytest.raises(ShapeError) as error:
        HardNegativeSampler(numbered(9), candidates=4, keep=2, score=lambda m: m.float().mean()).draw(2, seeded())
    assert str(error.value) == (
        "HardNegativeSampler: score must return one loss for each mask.\n  given:   [] float32 on cpu\n  needed:  [4]"
    )
    with pytest.raises(ConfigError) as error:
        HardNegativeSampler(numbered(9), candidates=4, keep=5)
    assert str(error.value) == "HardNegativeSampler: keep exceeds candidates.\n  given:   5 > 4\n  needed:  keep <= candidates"


def test_nan_is_never_hard():
    sampler = HardNegativeSampler(
        Plain(), candidates=6, keep=2, score=lambda m: first_value(m).index_fill(0, torch.tensor(5), torch.nan)
    )
    assert sorted(sampler.draw(2, seeded())[:, 0, 0].tolist()) == [3, 4]


def make_mixer(source, **kwargs):
    generator = FeatureGenerator(5, kwargs.pop("spec"), width=8, depth=1)
    return FeatureMixer(generator, source, **kwargs)


@pytest.fixture
def cut(tiny_net):
    return split(tiny_net().train(), "body")


@pytest.fixture
def scenes(rng):
    return torch.randint(5, (60, 1, 1), generator=rng).expand(-1, 16, 16).clone()


def test_a_mixer_that_knows_the_cut_mines_by_the_decoder(cut, scenes):
    sampler = HardNegativeSampler(scenes, candidates=30, keep=6, refresh_every=2)
    torch.manual_seed(0)
    mixer = make_mixer(sampler, spec=cut.spec, cut=cut)
    cut.model.stem.eval()
    modes = [m.training for m in cut.model.modules()]
    state = {key: value.clone() for key, value in cut.model.state_dict().items()}
    plan = mixer.plan(10)
    assert [m.training for m in cut.model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in cut.model.state_dict().items())
    assert all(p.grad is None for p in cut.model.parameters())
    # The losses are those of the decoder in eval mode on features generated from the masks.
    rows = [(sampler.pool == mask).all((1, 2)).any() for mask in plan.masks]
    assert len(rows) > 0
    assert all(rows)
    assert sampler.pool_losses.mean() > sampler.candidate_losses.mean()
    again = sampler.score(sampler.pool)
    cut.model.eval()
    z = draw_latents(mixer.generator, sampler.pool, seeded())
    with torch.no_grad():
        logits = cut.decode(mixer.generator(sampler.pool, z), (16, 16))
    torch.testing.assert_close(again, per_sample_loss(logits, sampler.pool))


def test_mixing_at_a_cut_lets_the_sampler_mine_without_being_told(cut, scenes):
    sampler = HardNegativeSampler(scenes, candidates=10, keep=5)
    mixer = make_mixer(sampler, spec=cut.spec, ratio=0.5)
    with mixer.on(cut, scenes[:4]) as batch:
        out = cut.model(torch.rand(4, 3, 16, 16))
    assert sampler.pool is not None
    assert len(out) == len(batch.masks) == 8


def test_any_object_that_draws_is_a_source(cut):
    source = Plain()
    assert as_source(source) is source
    mixer = make_mixer(source, spec=cut.spec, ratio=0.5)
    assert mixer.plan(3).masks[:, 0, 0].tolist() == [0, 1, 2]
    assert isinstance(as_source(numbered(2)), DatasetMasks)


def test_the_plan_state_carries_the_pool(cut, scenes):
    def fresh(seed):
        torch.manual_seed(0)
        sampler = HardNegativeSampler(scenes, candidates=20, keep=5, refresh_every=4, score=lambda m: first_value(m))
        return make_mixer(sampler, spec=cut.spec, seed=seed)

    mixer = fresh(0)
    for _ in range(2):
        mixer.plan(10)
    state = mixer.plan_state()
    after = [mixer.plan(10) for _ in range(6)]
    resumed = fresh(1)
    resumed.load_plan_state(state)
    for plan in after:
        again = resumed.plan(10)
        assert torch.equal(plan.masks, again.masks)
        assert torch.equal(plan.z, again.z)


def observed(sampler, n, seed):
    """One training step: draw, and tell the losses."""
    masks = sampler.draw(n, seeded(seed))
    sampler.observe(masks, first_value(masks))
    return masks


def test_learned_the_hardest_that_were_ever_drawn_stay():
    sampler = HardNegativeSampler(Plain(), keep=4, learn=True)
    drawn = torch.cat([observed(sampler, 5, seed) for seed in range(6)])
    pool = sampler.state_dict()["pool"]
    assert first_value(pool).sort().values.tolist() == first_value(drawn).unique().sort().values[-4:].tolist()
    # Half of a draw comes from the pool, once there is one, without repetition; the rest is fresh.
    before = set(first_value(pool).tolist())
    counts = []
    for seed in range(40):
        masks = first_value(sampler.draw(5, seeded(seed))).tolist()
        counts.append(len(before & set(masks)))
        assert len(set(masks)) == 5
    assert set(counts) == {2, 3}


def test_learned_losses_follow_the_decoder():
    sampler = HardNegativeSampler(Plain(), keep=2, learn=True)
    sampler.observe(numbered(4), torch.tensor([1.0, 9.0, float("nan"), 5.0]))
    assert sorted(first_value(sampler.state_dict()["pool"]).tolist()) == [1, 3]
    masks = sampler.draw(4, seeded(1))
    sampler.observe(masks, torch.zeros(4))  # the pool's two have become easy
    assert sampler.state_dict()["pool_losses"].tolist() == [0, 0]
    sampler.observe(numbered(1, 50), torch.ones(1))
    assert 50 in first_value(sampler.state_dict()["pool"])


def test_learned_state_resumes_the_sequence():
    def run(sampler, steps):
        return [observed(sampler, 4, seed) for seed in steps]

    masks = numbered(30)
    undisturbed, stopped = (HardNegativeSampler(masks, keep=3, learn=True) for _ in range(2))
    expected = run(undisturbed, range(8))[4:]
    run(stopped, range(4))
    resumed = HardNegativeSampler(masks, keep=3, learn=True)
    resumed.load_state_dict(stopped.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(run(resumed, range(4, 8)), expected, strict=True))


def test_a_mixer_tells_the_losses_of_what_was_drawn(tiny_net):
    net = tiny_net()
    cut = split(net, at="body")
    sampler = HardNegativeSampler(torch.randint(5, (12, 32, 40)), keep=4, learn=True)
    generator = FeatureGenerator(5, cut.spec, width=4, depth=1)
    mixer = FeatureMixer(generator, sampler, 0.5, label_smoothing=0.0, cut=cut)
    assert sampler.score is None  # there is nothing to ask
    masks = torch.randint(5, (3, 32, 40))
    with mixer.on(cut, masks) as batch:
        out = net(torch.randn(3, 3, 32, 40))
    mixer.loss(out, batch)
    pool = sampler.state_dict()["pool"]
    assert torch.equal(pool.sort(0).values, batch.masks[3:].sort(0).values)
    logits = out["out"] if isinstance(out, dict) else out
    expected = per_sample_loss(logits[3:], batch.masks[3:]).detach()
    torch.testing.assert_close(sampler.pool_losses.sort().values, expected.sort().values)
    # A replayed batch tells nothing.
    with mixer.on(cut, masks, mixer.plan(3)) as batch:
        out = net(torch.randn(3, 3, 32, 40))
    mixer.loss(out, batch)
    assert torch.equal(sampler.state_dict()["pool"], pool)
