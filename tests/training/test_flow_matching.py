"""A training step of a flow against the same written plainly, its learning rate, and the loss on held-out images."""

import math
import re
import warnings

import pytest
import torch
from torch import nn

from feataug import FeatureSpec, GeneratorTrainer, LevelSpec
from feataug.core.rng import generator_for
from feataug.errors import FeatAugWarning
from feataug.generation.flow import draw_times
from feataug.training import flow_matching
from feataug.training.device import make_accelerator
from feataug.training.flow_matching import FlowObjective, warn_of_memory
from tests.support.generator_trainings import CLASSES, SIZE, copied, loader, make, same, settings, statistics
from tests.support.small_generators import small_config, small_generator

pytestmark = pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")


class Pyramid(nn.Module):
    """Two strides, and on request tokens beside the map, as a vision transformer has them."""

    def __init__(self, tokens):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 6, 2, 2)
        self.token = nn.Linear(6, 2 * 5) if tokens else None
        self.head = nn.Conv2d(10, CLASSES, 1)

    def encode(self, images):
        fine = self.first(images)
        coarse = self.second(fine)
        if self.token is None:
            return fine, coarse
        return fine, coarse, self.token(coarse.mean((2, 3))).view(-1, 5, 1, 2)

    def decode(self, features, size):
        fine, coarse, *tokens = features
        shift = sum(level.mean((1, 2, 3)) for level in tokens)
        maps = torch.cat([fine, nn.functional.interpolate(coarse, fine.shape[-2:])], 1)
        return nn.functional.interpolate(self.head(maps), size) + (shift[:, None, None, None] if tokens else 0)


class PyramidCut:
    """What ``GeneratorTrainer`` needs of a cut."""

    def __init__(self, tokens):
        torch.manual_seed(0)
        self.model = Pyramid(tokens)
        self.encode, self.decode, self.at = self.model.encode, self.model.decode, ("first", "second")
        levels = (LevelSpec("first", 4, 4), LevelSpec("second", 6, 8))
        self.spec = FeatureSpec((*levels, LevelSpec("token", 5, 0, tokens=2)) if tokens else levels)


def objective_of(cut, config, seed=0):
    """A flow's objective with statistics that are not those of the features, and blocks that are no longer the identity."""
    torch.manual_seed(seed)
    generator = small_generator(CLASSES, cut.spec)
    for parameter in generator.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    shapes = [(level.channels, level.tokens) if level.tokens else (level.channels,) for level in cut.spec]
    generator.set_statistics([torch.full(shape, 0.1) for shape in shapes], [torch.full(shape, 0.5) for shape in shapes])
    cut.model.eval().requires_grad_(False)
    objective = FlowObjective(generator, cut, config)
    objective.prepare(make_accelerator("cpu", "no"))
    return objective


@pytest.mark.parametrize("noise_levels", [1, 2])
@pytest.mark.parametrize("tokens", [False, True])
def test_a_step_is_that_of_the_formula(noise_levels, tokens):
    cut, config = PyramidCut(tokens), small_config(seed=3, noise_levels=noise_levels, num_images=2000)
    objective = objective_of(cut, config)
    generator, (images, masks) = objective.generator, next(iter(loader()))
    with torch.no_grad():
        real = [(level - 0.1) / 0.5 for level in cut.encode(images)]
    # The loss, sample by sample: x_t = (1 - t) e + t x, and the velocity x - e.
    rng, errors = generator_for(3, "noise", 400), []
    for _ in range(noise_levels):
        z = torch.randn(len(masks), generator.latent_size(SIZE), generator=rng)
        times = draw_times(len(masks), rng)
        for sample in range(len(masks)):
            parts = z[sample].split([level[sample].numel() for level in real])
            noise = [part.view_as(level[sample])[None] for part, level in zip(parts, real, strict=True)]
            t, one = times[sample], slice(sample, sample + 1)
            noisy = [(1 - t) * e + t * level[one] for e, level in zip(noise, real, strict=True)]
            found = generator.velocity(noisy, times[one], generator.encode_masks(masks[one]))
            pairs = zip(found, real, noise, strict=True)
            errors.append(torch.stack([(v - (level[one] - e)).square().mean() for v, level, e in pairs]).mean())
    velocities = torch.stack(errors).mean()
    means = [(mean - level).square().mean() for mean, level in zip(generator.encode_masks(masks).expected, real, strict=True)]
    expected = torch.stack(means).mean()
    (velocities + 0.25 * expected).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in generator.named_parameters()}
    norm = torch.stack([value.square().sum() for value in gradients.values()]).sum().sqrt()
    assert norm > 1  # otherwise nothing would be clipped
    losses = objective.step(images, masks, 400)
    assert losses.keys() == {"flow", "expected"}
    assert not any(loss.requires_grad for loss in losses.values())
    torch.testing.assert_close(losses["flow"], velocities.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["expected"], expected.detach(), rtol=1e-4, atol=1e-5)
    for name, parameter in generator.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name] / norm, rtol=1e-3, atol=1e-5, msg=name)


def test_noise_follows_from_seed_and_progress_alone():
    found = {}
    for seed, seen in ((0, 0), (0, 0), (0, 4), (1, 0)):
        objective = objective_of(PyramidCut(False), small_config(seed=seed))
        torch.rand(3)
        found.setdefault((seed, seen), []).append(float(objective.step(*next(iter(loader())), seen)["flow"]))
    first, again = found.pop((0, 0))
    assert first == again
    assert all(other != first for (other,) in found.values())


@pytest.mark.parametrize(
    ("num_images", "seen", "factor"),
    [
        # A rise over 600 images, or over a tenth of a training that is shorter than 6000, along with a cosine.
        (20_000, 0, 1 / 600),
        (20_000, 299, 0.5 * (1 + math.cos(math.pi * 299 / 20_000)) / 2),
        (20_000, 600, (1 + math.cos(math.pi * 600 / 20_000)) / 2),
        (20_000, 10_000, 0.5),
        (20_000, 20_000, 0.0),
        (1_000, 49, 0.5 * (1 + math.cos(math.pi * 49 / 1_000)) / 2),
        (1_000, 500, 0.5),
        (4, 0, 1.0),
    ],
)
def test_the_learning_rate_rises_and_follows_a_cosine(num_images, seen, factor):
    objective = objective_of(PyramidCut(False), small_config(num_images=num_images, lr=0.1, distill_share=0.0))
    objective.step(*next(iter(loader())), seen)
    (group,) = objective.optimizers["generator"].param_groups
    assert group["lr"] == pytest.approx(0.1 * factor, rel=1e-6, abs=1e-9)
    assert (group["betas"], group["weight_decay"]) == ((0.9, 0.999), 0.01)


@pytest.mark.parametrize("tokens", [False, True])
def test_a_pyramid_and_tokens_are_learned(tmp_path, tokens):
    cut = PyramidCut(tokens)
    generator = small_generator(CLASSES, cut.spec)
    config = small_config(num_images=200, stats_images=8, log_images=16, ema_images=0)
    trainer = GeneratorTrainer(generator, cut, config, output=tmp_path, device="cpu", progress=False)
    (result,) = trainer.fit(loader(), [next(iter(loader()))])
    lines = [line for line in statistics(tmp_path) if "flow" in line]
    assert lines[-1]["flow"] < 0.9 * lines[0]["flow"]
    assert set(lines[0]) == {"progress", "flow", "expected"}
    assert math.isfinite(result["held_out"])
    assert result["diversity"] > 0.1


def test_the_loss_on_held_out_images_falls():
    pairs = [next(iter(loader()))]
    (before,) = make(settings(lr=0.0)).fit(loader(), pairs)
    (after,) = make(settings(num_images=240)).fit(loader(), pairs)
    assert isinstance(after["held_out"], float)
    assert 0 < after["held_out"] < 0.9 * before["held_out"]


def test_the_loss_on_held_out_images_depends_on_the_weights_and_the_seed_alone():
    trainer = make(settings(num_images=24, eval_images=8, distill_share=0.0))
    pairs = list(loader())
    results = trainer.fit(loader(), pairs)
    assert len({result["held_out"] for result in results}) == 3
    # The same number at another time of a training, by an objective with another length, in another mode, and in batches as they are.
    torch.rand(3)
    trainer.generator.train()
    assert trainer.objective.held_out(trainer.generator, pairs) == results[-1]["held_out"]
    trainer.cut.model.train()
    before = copied(trainer.cut.model)
    other = FlowObjective(trainer.generator, trainer.cut, settings(num_images=500, lr=0.1))
    other.prepare(trainer.accelerator)
    for _ in range(2):
        assert other.held_out(trainer.generator, pairs) == results[-1]["held_out"]
    assert same(copied(trainer.cut.model), before)
    assert all(module.training for module in trainer.cut.model.modules())
    seeded = FlowObjective(trainer.generator, trainer.cut, settings(seed=1))
    seeded.prepare(trainer.accelerator)
    assert seeded.held_out(trainer.generator, pairs) != results[-1]["held_out"]


def test_images_larger_than_the_training_crops_are_held_out_in_windows_of_their_size():
    # A whole image has other borders and another context than the crops.
    objective = objective_of(PyramidCut(False), small_config())
    rows, columns = SIZE
    images, masks = torch.rand(3, 3, rows + 8, columns), torch.randint(CLASSES, (3, rows + 8, columns))
    whole = objective.held_out(objective.generator, [(images, masks)])
    found = objective.held_out(objective.generator, [(images, masks)], SIZE)
    by_hand = [(images[:, :, :rows], masks[:, :rows]), (images[:, :, 8:], masks[:, 8:])]
    assert found == objective.held_out(objective.generator, by_hand)
    assert found != whole
    assert objective.held_out(objective.generator, [(images, masks)], (rows + 8, columns)) == whole


def test_the_first_held_out_images_count(monkeypatch):
    monkeypatch.setattr(flow_matching, "HELD_OUT_IMAGES", 6)
    objective = objective_of(PyramidCut(False), small_config())
    batches, read = list(loader()), []

    def counted(again):
        for images, masks in again:
            read.append(len(masks))
            yield images, masks

    whole = objective.held_out(objective.generator, counted(batches + batches))
    assert read == [4, 4]
    assert whole == objective.held_out(objective.generator, batches[:2])
    assert math.isnan(objective.held_out(objective.generator, []))


@pytest.mark.parametrize(
    ("curve", "risen"),
    [
        ([], None),
        ([1.0], None),
        ([2.0, 1.0, 1.02], None),
        ([1.0, 1.5, 1.01], None),
        ([3.0, 2.0, 1.0], None),
        ([1.0, 1.0201], ("1.000", "1.020")),
        ([2.0, 0.5, 0.75], ("0.500", "0.750")),
    ],
)
def test_memory_is_reported_if_the_last_loss_is_more_than_2_percent_above_the_lowest(curve, risen):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_memory(curve)
    assert [str(warning.message) for warning in caught] == ([] if risen is None else [memory_text(*risen)])


def memory_text(lowest, last):
    return (
        f"GeneratorTrainer: the loss on held-out images has risen from {lowest} to {last}: the generator begins to memorise the "
        "training images. Train on fewer images (num_images), or with more augmentation."
    )


def test_a_training_that_memorises_says_so(monkeypatch):
    measured = iter([1.5, 1.25, 1.5])
    monkeypatch.setattr(FlowObjective, "held_out", lambda *given: next(measured))
    with pytest.warns(FeatAugWarning, match=re.escape(memory_text("1.250", "1.500"))) as caught:
        results = make(settings(num_images=24, eval_images=8)).fit(loader(), [next(iter(loader()))])
    assert [result["held_out"] for result in results] == [1.5, 1.25, 1.5]
    assert [warning.filename for warning in caught if "memorise" in str(warning.message)] == [__file__]


def test_a_second_fit_trains_further():
    trainer = make()
    trainer.fit(loader())
    before, wrapped = copied(trainer.generator), trainer.objective.loss
    trainer.fit(loader())
    assert not same(copied(trainer.generator), before)
    # The second fit wraps the loss for gradient averaging once, not once more around the first wrapper.
    assert trainer.objective.loss is not wrapped
    assert trainer.objective.loss.generator is trainer.generator
