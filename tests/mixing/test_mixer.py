"""Mixed batches: how many synthetic samples, which, and what happens to the real ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.cutting.cut import split
from feataug.errors import SplitError
from feataug.generation.generator import FeatureGenerator
from feataug.losses import segmentation_loss
from feataug.masks import DatasetMasks, HardNegativeSampler
from feataug.mixing.mixer import FeatureMixer

SPEC = FeatureSpec((LevelSpec("body", 16, 4),))
SIZE = (32, 40)


def make_generator(spec=SPEC):
    torch.manual_seed(1)
    return FeatureGenerator(5, spec, width=8, depth=1)


def draw_masks(count, size=SIZE, seed=0):
    return torch.randint(5, (count, *size), generator=torch.Generator().manual_seed(seed))


def make_mixer(ratio=0.3, spec=SPEC, **kwargs):
    return FeatureMixer(make_generator(spec), DatasetMasks(draw_masks(20)), ratio, **kwargs)


@pytest.fixture
def real():
    return (torch.randn(11, 16, 8, 10),), draw_masks(11, seed=5)


class Blank:
    """A mask source that costs nothing."""

    def draw(self, n, generator):
        return torch.zeros(n, 1, 1, dtype=torch.long)


def counts(real, ratio, draws=1000):
    mixer = FeatureMixer(make_generator(), Blank(), ratio, seed=3)
    return [len(mixer.plan(real).masks) for _ in range(draws)]


def check_counts(found, real, ratio):
    exact = real * ratio / (1 - ratio)
    assert set(found) <= {math.floor(exact + 1e-9), math.ceil(exact - 1e-9)}
    share = exact - math.floor(exact)
    # Five standard errors of a Bernoulli mean.
    assert sum(found) / len(found) == pytest.approx(exact, abs=5 * math.sqrt(share * (1 - share) / len(found)) + 1e-6)


def test_the_ratio_is_the_synthetic_share_of_the_mixed_batch():
    check_counts(counts(11, 0.3), 11, 0.3)
    assert set(counts(11, 0.3)) == {4, 5}
    assert set(counts(7, 0.3)) == {3}
    # Planted faults that the check must find: rounding to the nearest, rounding down, a share of the real samples.
    for fault in ([5] * 1000, [4] * 1000, [3] * 1000):
        with pytest.raises(AssertionError):
            check_counts(fault, 11, 0.3)


@settings(max_examples=12, deadline=None)
@given(real=st.integers(1, 24), percent=st.integers(0, 90))
def test_the_mean_number_of_synthetic_samples_is_exact(real, percent):
    check_counts(counts(real, percent / 100), real, percent / 100)


def test_real_samples_come_first_and_untouched(real):
    features, masks = real
    mixer = make_mixer()
    plan = mixer.plan(11)
    kept, kept_masks = features[0].clone(), masks.clone()
    batch = mixer(features, masks, plan)
    count = len(plan.masks)
    assert count in (4, 5)
    assert (batch.num_real, batch.num_synthetic) == (11, count)
    assert batch.features[0].shape == (11 + count, 16, 8, 10)
    assert torch.equal(batch.features[0][:11], kept)
    assert torch.equal(batch.masks, torch.cat([kept_masks, plan.masks]))
    assert batch.masks.dtype == torch.int64
    assert batch.is_synthetic.tolist() == [False] * 11 + [True] * count
    torch.testing.assert_close(batch.features[0][11:], mixer.generator(plan.masks, plan.z)[0])
    # New tensors: writing to them does not reach the inputs, nor did mixing.
    batch.features[0].zero_(), batch.masks.zero_()
    assert torch.equal(features[0], kept)
    assert torch.equal(masks, kept_masks)


@pytest.mark.parametrize("how", ["ratio 0", "eval"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_nothing_is_appended(real, how, dtype):
    features, masks = real
    mixer = make_mixer(0.0) if how == "ratio 0" else make_mixer().eval()
    batch = mixer(features, masks.to(dtype))
    assert torch.equal(batch.features[0], features[0])
    assert torch.equal(batch.masks, masks)
    assert batch.num_synthetic == 0
    assert not batch.is_synthetic.any()
    mixer.loss(torch.zeros(11, 5, *SIZE), batch)


def same(a, b):
    return torch.equal(a.masks, b.masks) and torch.equal(a.z, b.z)


def test_the_seed_decides_the_plan_and_the_plan_the_batch(real):
    first, again, other = make_mixer(seed=4), make_mixer(seed=4), make_mixer(seed=5)
    torch.manual_seed(9)
    plans = [first.plan(11) for _ in range(5)]
    torch.manual_seed(10)
    assert all(same(plan, again.plan(11)) for plan in plans)
    assert not any(same(plan, other.plan(11)) for plan in plans)
    assert not same(plans[0], plans[1])
    a, b = first(*real, plans[2]), again(*real, plans[2])
    assert torch.equal(a.features[0], b.features[0])
    assert torch.equal(a.masks, b.masks)
    # Two mixers of one seed go on alike after a replay, which draws nothing.
    assert same(first.plan(11), again.plan(11))


def test_plan_state_resumes_the_sequence():
    mixer = make_mixer()
    mixer.plan(11)
    state = mixer.plan_state()
    after = [mixer.plan(11) for _ in range(3)]
    resumed = make_mixer(seed=99)
    resumed.load_plan_state(state)
    assert all(same(plan, resumed.plan(11)) for plan in after)


def test_gradients_reach_the_real_features_only(real):
    features, masks = (real[0][0].requires_grad_(),), real[1]
    mixer = make_mixer()
    assert not mixer.train().generator.training
    batch = mixer(features, masks)
    batch.features[0].square().sum().backward()
    torch.testing.assert_close(features[0].grad, 2 * features[0].detach())
    assert all(p.grad is None for p in mixer.generator.parameters())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_real_features_dtype_and_memory_format_stay(real, dtype, memory_format):
    features = real[0][0].to(dtype).contiguous(memory_format=memory_format)
    joined = make_mixer()((features,), real[1]).features[0]
    assert len(joined) > 11
    assert joined.dtype == dtype
    assert joined.is_contiguous(memory_format=memory_format)
    assert torch.equal(joined[:11], features)


def test_several_levels(real):
    spec = FeatureSpec((LevelSpec("a", 16, 4), LevelSpec("b", 7, 8)))
    mixer = make_mixer(spec=spec)
    plan = mixer.plan(11)
    features = (*real[0], torch.randn(11, 7, 4, 5))
    batch = mixer(features, real[1], plan)
    for joined, kept, made in zip(batch.features, features, mixer.generator(plan.masks, plan.z), strict=True):
        torch.testing.assert_close(joined, torch.cat([kept, made]))


class Wrapper(nn.Module):
    """As DDP wraps."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, images):
        return self.module(images)


@pytest.mark.parametrize("target", ["cut", "model", "wrapped"])
def test_mixing_in_the_users_forward_equals_two_steps(tiny_net, target):
    model = tiny_net().eval()
    cut = split(model, "body")
    mixer = make_mixer(label_smoothing=0.1)
    images, masks, plan = torch.rand(6, 3, *SIZE), draw_masks(6), mixer.plan(6)
    batch = mixer(cut.encode(images), masks, plan)
    expected = cut.decode(batch.features, SIZE)
    with mixer.on({"cut": cut, "model": model, "wrapped": Wrapper(model)}[target], masks, plan) as inside:
        out = model(images)
    assert torch.equal(out, expected)
    assert inside.features == ()
    assert torch.equal(inside.masks, batch.masks)
    assert inside.num_real == 6
    assert inside.num_synthetic == len(plan.masks) > 0
    assert torch.equal(mixer.loss(out, inside), mixer.loss(expected, batch))
    with mixer.eval().on(cut, masks) as inside:
        assert torch.equal(model(images), out[:6])
    assert torch.equal(inside.masks, masks)


def test_mining_inside_autocast_takes_no_gradients(tiny_net):
    model = tiny_net()
    cut = split(model, "body")
    masks = HardNegativeSampler(DatasetMasks(draw_masks(20)), candidates=4, keep=2)
    mixer = FeatureMixer(make_generator(), masks, 0.5)
    with torch.autocast("cpu"):
        with mixer.on(cut, draw_masks(2)) as batch:
            out = model(torch.rand(2, 3, *SIZE))
        mixer.loss(out, batch).backward()
    assert masks.pool is not None
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("weight", [0.5, "sum"])
def test_the_loss_is_equation_2_with_the_mixers_settings(real, weight):
    mixer = make_mixer(label_smoothing=0.1, synthetic_weight=weight, aux_weight=0.2, ignore_index=-1)
    batch = mixer(*real)
    batch.masks[:, :3] = -1
    out = {name: torch.randn(len(batch.masks), 5, 8, 10) for name in ("out", "aux")}
    by_hand = [
        segmentation_loss(out[name], batch.masks, 11, label_smoothing=0.1, synthetic_weight=weight, ignore_index=-1)
        for name in ("out", "aux")
    ]
    torch.testing.assert_close(mixer.loss(out, batch), by_hand[0] + 0.2 * by_hand[1])


def test_a_model_with_two_cuts_or_a_copy_must_name_the_cut(tiny_net):
    model = tiny_net()
    first, _second = split(model, "body"), split(model, "stem")
    with pytest.raises(SplitError, match="given:   TinyNet with 2 cuts\n"), make_mixer().on(model, draw_masks(2)):
        pass
    with make_mixer(0.5).on(first, draw_masks(2)):
        assert len(model(torch.rand(2, 3, *SIZE))) == 4
