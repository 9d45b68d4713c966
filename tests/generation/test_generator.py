"""The generator's contract: shapes, noise, statistics, files, messages."""

from __future__ import annotations

import copy

import pytest
import torch

from feataug.core.specs import FeatureSpec, LevelSpec
from feataug.errors import ConfigError, DtypeError, LabelError, ShapeError
from feataug.generation.generator import FeatureGenerator

K, VOID = 11, 255


def spec_of(*levels):
    return FeatureSpec(tuple(LevelSpec(f"layer{number}", *level) for number, level in enumerate(levels)))


ONE = spec_of((6, 8))
FOUR = spec_of((4, 4), (6, 8), (5, 16), (3, 32))


def small(spec=ONE, preset="default", **kwargs):
    torch.manual_seed(0)
    return FeatureGenerator(K, spec, preset, **{"mask_widths": (6, 9, 12), "width": 8, "depth": 1, **kwargs}).eval()


def draw_masks(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    masks = torch.randint(K, shape, generator=rng)
    return masks.masked_fill(torch.rand(shape, generator=rng) < 0.1, VOID)


@pytest.fixture(params=["default", "paper"])
def generator(request):
    generator = small(FOUR, request.param)
    generator.set_statistics([torch.randn(c) for c in FOUR.channels], [torch.rand(c) + 0.5 for c in FOUR.channels])
    return generator


@pytest.mark.parametrize("size", [(1, 1), (16, 32), (37, 51), (65, 1)], ids=str)
@pytest.mark.parametrize("reductions", [(1,), (2,), (4,), (8,), (16,), (32,), (14,), (4, 8, 16, 32), (32, 8), (7, 14)], ids=str)
def test_every_level_has_the_size_of_its_reduction(reductions, size):
    spec = spec_of(*[(3 + number, reduction) for number, reduction in enumerate(reductions)])
    features = small(spec)(draw_masks(2, *size))
    assert [f.shape for f in features] == [(2, s.channels, -(-size[0] // s.reduction), -(-size[1] // s.reduction)) for s in spec]
    assert all(f.isfinite().all() for f in features)


def test_the_same_noise_gives_the_same_features_and_other_noise_others(generator):
    masks = draw_masks(2, 33, 47)
    z, other = generator.draw_z(2, torch.Generator().manual_seed(1)), generator.draw_z(2, torch.Generator().manual_seed(2))
    assert torch.equal(z, generator.draw_z(2, torch.Generator().manual_seed(1)))
    for a, b, c, d in zip(generator(masks, z), generator(masks, z), generator(masks, other), generator(masks), strict=True):
        assert torch.equal(a, b)
        assert not torch.allclose(a, c)
        assert not torch.allclose(a, d)
    # A mask's features do not depend on who else is in the batch.
    for whole, alone in zip(generator(masks, z), generator(masks[1:], z[1:]), strict=True):
        torch.testing.assert_close(whole[1:], alone, rtol=1e-4, atol=1e-5)


def test_other_masks_give_other_features(generator):
    z = generator.draw_z(1)
    for a, b in zip(generator(draw_masks(1, 32, 32), z), generator(draw_masks(1, 32, 32, seed=1), z), strict=True):
        assert not torch.allclose(a, b)


def test_samples_equal_separate_calls(generator):
    masks, z = draw_masks(2, 32, 40), generator.draw_z(6)
    together = generator(masks, z, samples=3)
    for number in range(3):
        apart = generator(masks, z[2 * number : 2 * number + 2])
        for whole, part in zip(together, apart, strict=True):
            torch.testing.assert_close(whole[2 * number : 2 * number + 2], part, rtol=1e-4, atol=1e-5)


def test_void_is_a_class_of_its_own(generator):
    z = generator.draw_z(1)
    void = generator(torch.full((1, 32, 32), VOID), z)
    road = generator(torch.zeros(1, 32, 32, dtype=torch.long), z)
    assert all(f.isfinite().all() for f in void)
    assert not any(torch.allclose(a, b) for a, b in zip(void, road, strict=True))


def test_any_integer_dtype_will_do_and_nothing_is_written_to(generator):
    masks, z = draw_masks(2, 32, 32), generator.draw_z(2)
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
    masks, z = draw_masks(2, 32, 32), generator.draw_z(2)
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


@pytest.mark.parametrize("kwargs", [{}, {"latent_dim": 3, "ignore_index": 254}])
def test_save_and_load_give_the_same_generator(generator, tmp_path, kwargs):
    if kwargs:
        generator = small(FOUR, "paper", **kwargs)
    generator.save_pretrained(tmp_path)
    loaded = FeatureGenerator.from_pretrained(tmp_path)
    assert loaded.spec == generator.spec
    assert (loaded.latent_dim, loaded.ignore_index) == (generator.latent_dim, generator.ignore_index)
    state, theirs = generator.state_dict(), loaded.state_dict()
    assert list(state) == list(theirs)
    assert {"mean_0", "std_3", "fitted"} <= set(state)
    assert all(torch.equal(value, theirs[key]) for key, value in state.items())
    masks, z = draw_masks(1, 32, 32).masked_fill(draw_masks(1, 32, 32) == VOID, generator.ignore_index), generator.draw_z(1)
    assert all(torch.equal(a, b) for a, b in zip(generator(masks, z), loaded.eval()(masks, z), strict=True))


def test_gradients_reach_every_parameter_and_the_noise(generator):
    z = generator.draw_z(2).requires_grad_()
    sum(f.square().mean() for f in generator(draw_masks(2, 64, 64), z)).backward()
    assert z.grad.abs().sum() > 0
    assert [name for name, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_papers_mask_encoder():
    encoder = FeatureGenerator(K, ONE, "paper", width=8, depth=0).mask_encoder
    assert [sum(branch.weight.shape[0] for branch in stage.branches) for stage in encoder.stages] == [96, 192, 384]
    assert [[branch.dilation for branch in stage.branches] for stage in encoder.stages] == [[1, 2, 4]] + 2 * [
        [(1, 1), (2, 2), (4, 4)]
    ]
    assert encoder(draw_masks(1, 24, 40)).shape == (1, 384, 3, 5)


def test_one_class_and_float64():
    generator = FeatureGenerator(1, ONE, mask_widths=(4,), width=8, depth=0).double()
    assert generator(torch.zeros(1, 16, 16, dtype=torch.long))[0].dtype == torch.float64


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
    "z": (
        lambda g: g(torch.zeros(2, 8, 8, dtype=torch.long), torch.zeros(2, 3)),
        ShapeError,
        "FeatureGenerator: z has the wrong shape.\n  given:   [2, 3] float32 on cpu\n  needed:  [2, 8]",
    ),
    "preset": (
        lambda g: FeatureGenerator(K, ONE, "papre"),
        ConfigError,
        "FeatureGenerator: no such preset.\n  given:   'papre'\n  needed:  'paper' or 'default'",
    ),
    "modulation": (
        lambda g: FeatureGenerator(K, ONE, modulation="spade"),
        ConfigError,
        "FeatureGenerator: no such modulation.\n  given:   'spade'\n  needed:  'none' or 'latent' or 'class'",
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


@pytest.mark.parametrize("name", ERRORS)
def test_messages(name):
    attempt, kind, text = ERRORS[name]
    with pytest.raises(kind) as error:
        attempt(small())
    assert str(error.value) == text


def test_class_modulation_starts_as_none_and_then_acts_where_the_class_is():
    plain, classed = small(modulation="latent"), small(modulation="class")
    tables = [value for name, value in classed.named_parameters() if name.endswith(".table")]
    assert tables
    assert all(value.shape[0] == K + 1 for value in tables)  # void has a row of its own
    classed.load_state_dict(plain.state_dict(), strict=False)
    masks = torch.zeros(1, 64, 128, dtype=torch.long)
    masks[:, :, 64:] = 3
    z = classed.draw_z(1, torch.Generator().manual_seed(0))
    (before,) = classed(masks, z)
    torch.testing.assert_close(before, plain(masks, z)[0])
    with torch.no_grad():
        last = classed.unet.norms[0].table
        last[3] += 1.0
    (after,) = classed(masks, z)
    moved = (after - before).abs().sum(1)[0]  # 8 x 16 cells; the head sees one further
    assert moved[:, 8:].min() > 0
    assert moved[:, :7].max() == 0


def test_the_spec_may_be_a_dictionary_and_nothing_else():
    spec = FeatureSpec((LevelSpec("a", 6, 4),))
    small = {"mask_widths": (8,), "width": 8, "depth": 0}
    assert FeatureGenerator(3, spec.to_dict(), **small).spec == spec
    with pytest.raises(ConfigError) as error:
        FeatureGenerator(3, "a", **small)
    assert str(error.value) == "FeatureGenerator: spec is not a FeatureSpec.\n  given:   str 'a'\n  needed:  cut.spec"
