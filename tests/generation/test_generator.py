"""The contract of a generator of any preset: shapes, noise, statistics, files, messages."""

from __future__ import annotations

import copy

import pytest
import torch

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.errors import ConfigError, DtypeError, LabelError, ShapeError
from feataug.generation.generator import FeatureGenerator

K, VOID = 11, 255
PRESETS = ("flow", "bicyclegan", "paper")


def spec_of(*levels):
    return FeatureSpec(tuple(LevelSpec(f"layer{number}", *level) for number, level in enumerate(levels)))


ONE = spec_of((6, 8))
FOUR = spec_of((4, 4), (6, 8), (5, 16), (3, 32))


def small(spec=ONE, preset="flow", **kwargs):
    torch.manual_seed(0)
    own = {} if preset == "flow" else {"mask_widths": (6, 9, 12)}
    generator = FeatureGenerator(K, spec, preset, **{"width": 8, "depth": 1, **own, **kwargs}).eval()
    if preset == "flow":
        # As after some training: the blocks of a new network are the identity.
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return generator


def draw_masks(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(K, shape, generator=rng)
    return masks.masked_fill(torch.rand(shape, generator=rng) < 0.1, VOID)


def draw_z(generator, masks, *, samples=1, seed=1):
    return generator.draw_z(masks, torch.Generator().manual_seed(seed), samples=samples)


@pytest.fixture(params=PRESETS)
def generator(request):
    generator = small(FOUR, request.param)
    generator.set_statistics([torch.randn(c) for c in FOUR.channels], [torch.rand(c) + 0.5 for c in FOUR.channels])
    return generator


@pytest.mark.parametrize("preset", ["flow", "bicyclegan"])
@pytest.mark.parametrize("size", [(1, 1), (16, 32), (37, 51), (65, 1)], ids=str)
@pytest.mark.parametrize("reductions", [(1,), (2,), (4,), (8,), (16,), (32,), (14,), (4, 8, 16, 32), (32, 8), (7, 14)], ids=str)
def test_every_level_has_the_size_of_its_reduction(reductions, size, preset):
    spec = spec_of(*[(3 + number, reduction) for number, reduction in enumerate(reductions)])
    features = small(spec, preset)(draw_masks(2, *size))
    assert [f.shape for f in features] == [(2, s.channels, -(-size[0] // s.reduction), -(-size[1] // s.reduction)) for s in spec]
    assert all(f.isfinite().all() for f in features)


@torch.no_grad()
def test_a_generator_leaves_out_what_the_encoder_leaves_out():
    """Rounding down drops the far edge: the other cells are where they were."""
    masks = draw_masks(1, 124, 148)
    specs = [FeatureSpec((LevelSpec("x", 4, 8, offset=offset),)) for offset in (None, 0)]
    for preset in ("bicyclegan", "flow"):
        up, down = (small(spec, preset) for spec in specs)
        z = dropped = draw_z(up, masks)
        if preset == "flow":
            dropped = z.view(1, 4, 16, 19)[..., :15, :18].flatten(1)
        whole, part = up(masks, z)[0][..., :15, :18], down(masks, dropped)[0]
        # Two convolutions of the mask's network and one of the velocity's see two cells each beyond the edge.
        inner = slice(0, -6) if preset == "flow" else slice(None)
        torch.testing.assert_close(whole[..., inner, inner], part[..., inner, inner])


def test_the_same_noise_gives_the_same_features_and_other_noise_others(generator):
    masks = draw_masks(2, 33, 47)
    z, other = draw_z(generator, masks), draw_z(generator, masks, seed=2)
    assert torch.equal(z, draw_z(generator, masks))
    assert z.shape == (2, generator.latent_size((33, 47)))
    for a, b, c, d in zip(generator(masks, z), generator(masks, z), generator(masks, other), generator(masks), strict=True):
        assert torch.equal(a, b)
        assert not torch.allclose(a, c)
        assert not torch.allclose(a, d)
    # A mask's features do not depend on who else is in the batch.
    for whole, alone in zip(generator(masks, z), generator(masks[1:], z[1:]), strict=True):
        torch.testing.assert_close(whole[1:], alone, rtol=1e-4, atol=1e-5)


def test_other_masks_give_other_features(generator):
    masks = draw_masks(1, 32, 32)
    z = draw_z(generator, masks)
    for a, b in zip(generator(masks, z), generator(draw_masks(1, 32, 32, seed=1), z), strict=True):
        assert not torch.allclose(a, b)


def test_samples_equal_separate_calls(generator):
    masks = draw_masks(2, 32, 40)
    z = draw_z(generator, masks, samples=3)
    together = generator(masks, z, samples=3)
    for number in range(3):
        apart = generator(masks, z[2 * number : 2 * number + 2])
        for whole, part in zip(together, apart, strict=True):
            torch.testing.assert_close(whole[2 * number : 2 * number + 2], part, rtol=1e-4, atol=1e-5)


def test_void_is_a_class_of_its_own(generator):
    masks = torch.full((1, 32, 32), VOID)
    z = draw_z(generator, masks)
    void, road = generator(masks, z), generator(torch.zeros_like(masks), z)
    assert all(f.isfinite().all() for f in void)
    assert not any(torch.allclose(a, b) for a, b in zip(void, road, strict=True))


def test_any_integer_dtype_will_do_and_nothing_is_written_to(generator):
    masks = draw_masks(2, 32, 32)
    z = draw_z(generator, masks)
    kept, kept_z, state = masks.clone(), z.clone(), copy.deepcopy(generator.state_dict())
    a, b = generator(masks, z), generator(masks.to(torch.uint8), z)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    features = tuple(torch.randn_like(f) for f in a)
    kept_features = [f.clone() for f in features]
    generator.destandardize(generator.standardize(features))
    assert torch.equal(masks, kept)
    assert torch.equal(z, kept_z)
    assert all(torch.equal(x, y) for x, y in zip(features, kept_features, strict=True))
    assert all(torch.equal(value, state[key]) for key, value in generator.state_dict().items())


def test_statistics_move_the_result_to_the_encoders_units(generator):
    masks = draw_masks(2, 32, 32)
    z = draw_z(generator, masks)
    own, standard = generator(masks, z), generator(masks, z, standardized=True)
    for number, (a, b) in enumerate(zip(own, standard, strict=True)):
        mean, std = getattr(generator, f"mean_{number}"), getattr(generator, f"std_{number}")
        for channel in range(a.shape[1]):
            torch.testing.assert_close(a[:, channel], b[:, channel] * std[channel] + mean[channel])
    for inverse, b in zip(generator.standardize(own), standard, strict=True):
        torch.testing.assert_close(inverse, b, rtol=1e-4, atol=1e-5)


def test_standardized_real_features_have_mean_0_and_variance_1(rng):
    generator = small()
    assert not generator.fitted
    real = torch.randn(50, 6, 8, 8, generator=rng) * torch.arange(6)[:, None, None] * 7 + 100
    means, stds = real.mean((0, 2, 3)), real.std((0, 2, 3), correction=0)
    assert stds[0] == 0
    generator.set_statistics([means], [stds])
    (standard,) = generator.standardize([real])
    assert generator.fitted
    torch.testing.assert_close(standard.mean((0, 2, 3)), torch.zeros(6), rtol=0, atol=1e-3)
    # A constant channel keeps its unit instead of becoming NaN.
    torch.testing.assert_close(standard.std((0, 2, 3), correction=0), torch.tensor([0.0, 1, 1, 1, 1, 1]), rtol=0, atol=1e-3)
    torch.testing.assert_close(generator.destandardize([standard])[0], real)


@pytest.mark.parametrize(
    ("preset", "kwargs"),
    [("flow", {}), ("flow", {"steps": 3, "ignore_index": 254}), ("bicyclegan", {}), ("paper", {"latent_dim": 3, "ignore_index": 254})],
)
def test_save_and_load_give_the_same_generator(tmp_path, preset, kwargs):
    generator = small(FOUR, preset, **kwargs)
    generator.set_statistics([torch.randn(c) for c in FOUR.channels], [torch.rand(c) + 0.5 for c in FOUR.channels])
    generator.save_pretrained(tmp_path)
    loaded = FeatureGenerator.from_pretrained(tmp_path)
    own = "steps" if preset == "flow" else "latent_dim"
    for name in ("spec", "preset", "ignore_index", own):
        assert getattr(loaded, name) == getattr(generator, name)
    assert kwargs == {name: getattr(loaded, name) for name in kwargs}
    state, theirs = generator.state_dict(), loaded.state_dict()
    assert list(state) == list(theirs)
    assert {"mean_0", "std_3", "fitted"} <= set(state)
    assert all(torch.equal(value, theirs[key]) for key, value in state.items())
    masks = draw_masks(1, 32, 32)
    masks = masks.masked_fill(masks == VOID, generator.ignore_index)
    z = draw_z(generator, masks)
    assert all(torch.equal(a, b) for a, b in zip(generator(masks, z), loaded.eval()(masks, z), strict=True))


def test_gradients_reach_every_parameter_and_the_noise(generator):
    masks = draw_masks(2, 64, 64)
    z = draw_z(generator, masks).requires_grad_()
    sum(f.square().mean() for f in generator(masks, z)).backward()
    assert z.grad.abs().sum() > 0
    assert [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("preset", PRESETS)
def test_one_class_and_float64(preset):
    own = {} if preset == "flow" else {"mask_widths": (4,)}
    spec = FeatureSpec((LevelSpec("v", 6, 8), LevelSpec("v.prefix", 6, 0, tokens=2)))
    generator = FeatureGenerator(1, spec, preset, width=8, depth=1, **own).double()
    assert [f.dtype for f in generator(torch.zeros(1, 16, 16, dtype=torch.long))] == [torch.float64] * 2


ERRORS = {
    "label": (
        lambda g: g(torch.full((2, 8, 8), 3).index_put((torch.tensor(1), torch.tensor(2), torch.tensor(5)), torch.tensor(40))),
        LabelError,
        "FeatureGenerator: a mask holds labels that are no class.\n"
        "  given:   [40] in [2, 8, 8] int64 on cpu, first at sample 1, row 2, column 5\n"
        "  needed:  0 .. 10, or ignore_index (255) for void\n"
        "Map the data set's own ids to 0 .. num_classes - 1 first, or raise num_classes if these are classes.",
    ),
    "float": (
        lambda g: g(torch.zeros(2, 8, 8)),
        DtypeError,
        "FeatureGenerator: masks must be integer label maps.\n"
        "  given:   [2, 8, 8] float32 on cpu\n"
        "  needed:  (B, H, W) int64, the class of every pixel\n"
        "For one-hot or probability maps of shape (B, K, H, W), pass masks.argmax(1).",
    ),
    "ndim": (
        lambda g: g(torch.zeros(8, 8, dtype=torch.long)),
        ShapeError,
        "FeatureGenerator: masks have the wrong shape.\n"
        "  given:   [8, 8] int64 on cpu\n"
        "  needed:  (B, H, W), none of them zero\n"
        "For a single mask pass mask[None]; for (B, 1, H, W) pass masks[:, 0].",
    ),
    "preset": (
        lambda g: FeatureGenerator(K, ONE, "papre"),
        ConfigError,
        "FeatureGenerator: no such preset.\n  given:   'papre'\n  needed:  'flow' or 'paper' or 'bicyclegan'",
    ),
    "classes": (
        lambda g: FeatureGenerator(0, ONE),
        ConfigError,
        "FeatureGenerator: num_classes is out of range.\n  given:   0\n  needed:  an integer in [1, inf)",
    ),
    "cut": (
        lambda g: g.standardize([torch.zeros(2, 7, 4, 4)]),
        ShapeError,
        "FeatureGenerator: the features do not fit the spec.\n"
        '  given:   [2, 7, 4, 4] float32 on cpu   at level "layer0"\n'
        "  needed:  [B, 6, h, w]   (channels 6, reduction 8)\n"
        "The model seems to be cut at another layer, or to be given images of another size, than the one the spec was made for:\n"
        "cut it there, or train a generator for this cut with GeneratorTrainer.",
    ),
}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ERRORS)
def test_messages(name, preset):
    attempt, kind, text = ERRORS[name]
    with pytest.raises(kind) as error:
        attempt(small(preset=preset))
    assert str(error.value) == text


@pytest.mark.parametrize(("preset", "count"), [("flow", 6 * 2 * 3), ("bicyclegan", 8), ("paper", 8)])
def test_noise_of_another_size_or_kind_is_refused(preset, count):
    generator, masks = small(preset=preset), torch.zeros(2, 16, 24, dtype=torch.long)
    assert generator.latent_size((16, 24)) == count
    with pytest.raises(ShapeError) as error:
        generator(masks, torch.zeros(2, 3))
    assert str(error.value) == f"FeatureGenerator: z has the wrong shape.\n  given:   [2, 3] float32 on cpu\n  needed:  [2, {count}]"
    with pytest.raises(DtypeError) as error:
        generator(masks, torch.zeros(2, count, dtype=torch.long))
    assert str(error.value) == (
        "FeatureGenerator: z must be a floating point tensor.\n"
        f"  given:   [2, {count}] int64 on cpu\n  needed:  [2, {count}] float, or [2] int64 seeds"
    )
    with pytest.raises(DtypeError, match=r"given:   \[3\] int64"):
        generator(masks, torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_seed_stands_for_the_noise_of_one_sample(preset):
    generator, masks = small(preset=preset).eval(), torch.randint(K, (2, 16, 24), generator=torch.Generator().manual_seed(0))
    size = generator.latent_size((16, 24))
    seeds = torch.tensor([3, 7, 3, 9])
    noise = torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])
    for one, other in zip(generator(masks, seeds, samples=2), generator(masks, noise, samples=2), strict=True):
        assert torch.equal(one, other)


def test_the_spec_may_be_a_dictionary_and_nothing_else():
    spec = FeatureSpec((LevelSpec("a", 6, 4),))
    small = {"width": 8, "depth": 1}
    assert FeatureGenerator(3, spec.to_dict(), **small).spec == spec
    with pytest.raises(ConfigError) as error:
        FeatureGenerator(3, "a", **small)
    assert str(error.value) == "FeatureGenerator: spec is not a FeatureSpec.\n  given:   str 'a'\n  needed:  cut.spec"
