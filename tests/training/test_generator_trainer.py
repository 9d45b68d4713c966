"""``GeneratorTrainer`` with either objective: what stays as it is, resuming, the moving average, results."""

import math

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from feataug import FeatureGenerator, GeneratorConfig, recognition, split
from feataug.core.crop_sizes import note_size
from feataug.data import Scenes, eval_transforms, seeded_loader
from feataug.errors import FeatAugError
from feataug.training.generator_trainer import GeneratorTrainer
from tests.support.generator_trainings import CLASSES, SIZE, TinyModel, copied, loader, make, same, scenes, settings, statistics
from tests.support.small_generators import PRESETS, small_generator

# Runs as short as these ignore z; that they say so is tested in test_generator_trainer_errors.py.
pytestmark = pytest.mark.filterwarnings("ignore:GeneratorTrainer. the generator seems to ignore z")
MAIN_LOSS = {"flow": "flow", "bicyclegan": "l1"}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_main_loss_goes_down(tmp_path, preset):
    make(settings(preset, num_images=240, log_images=40, distill_share=0.0), output=tmp_path).fit(loader())
    values = [line[MAIN_LOSS[preset]] for line in statistics(tmp_path)]
    assert len(values) == 6
    assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize(
    ("preset", "config"),
    [("flow", GeneratorConfig()), ("bicyclegan", GeneratorConfig.bicyclegan()), ("paper", GeneratorConfig.paper())],
)
def test_without_settings_a_generator_has_those_of_its_preset(preset, config):
    cut = split(TinyModel(), at="encoder")
    assert GeneratorTrainer(FeatureGenerator(CLASSES, cut.spec, preset), cut, device="cpu").config == config


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_segmentation_model_is_left_alone(preset, measured):
    trainer = make(settings(preset))
    model = trainer.cut.model.train()
    model.encoder[1].eval()
    model.encoder[0].requires_grad_(False)
    before = copied(model)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    trainer.fit(loader(), [next(iter(loader()))] if measured else None)
    assert same(copied(model), before)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module.training for module in trainer.generator.modules())


@pytest.mark.parametrize("preset", PRESETS)
def test_the_segmentation_model_is_put_back_after_an_error(preset):
    trainer = make(settings(preset))
    trainer.cut.model.train()
    with pytest.raises(RuntimeError, match="planted"):
        trainer.fit(Failing())
    assert all(module.training for module in trainer.cut.model.modules())
    assert all(parameter.requires_grad for parameter in trainer.cut.model.parameters())


class Failing:
    """A loader that breaks off in its third batch, after the statistics were measured."""

    def __iter__(self):
        yield from list(loader())[:2]
        raise RuntimeError("planted")


def test_channel_statistics_are_those_of_the_first_images():
    trainer = make(settings(stats_images=6))  # two batches of 4
    trainer.fit(loader())
    batches = loader()
    batches.batch_sampler.set_epoch(0)
    images = torch.cat([images for images, _ in batches][:2])
    with torch.no_grad():
        pixels = trainer.cut.model.eval().encoder(images).double().movedim(1, -1).flatten(0, -2)
    generator = trainer.generator
    torch.testing.assert_close(generator.mean_0, pixels.mean(0).float())
    torch.testing.assert_close(generator.std_0, pixels.std(0, correction=0).float())
    assert bool(generator.fitted)


# What the rate is multiplied with in six steps of four images.
RATES = {
    # A rise over a tenth of the images, which is over after the first step, and a cosine.
    "flow": [0.5, *((1 + math.cos(math.pi * seen / 24)) / 2 for seen in (4, 8, 12, 16, 20))],
    # Constant for the first half, then linear to zero.
    "bicyclegan": [1, 1, 1, 1, 4 / 6, 2 / 6],
}


@pytest.mark.parametrize("preset", PRESETS)
def test_learning_rate_and_moving_average(preset):
    config = settings(preset, num_images=24, ema_images=6, distill_share=0.0)
    trainer = make(config)
    rates, weights = [], []
    parameters = dict(trainer.generator.named_parameters())
    first = {name: value.detach().clone() for name, value in parameters.items()}
    mine = next(iter(parameters.values()))

    def whose(optimizer):
        return any(p is mine for group in optimizer.param_groups for p in group["params"])

    def before(optimizer, args, kwargs):
        if whose(optimizer):
            rates.extend(group["lr"] for group in optimizer.param_groups)

    def after(optimizer, args, kwargs):
        if whose(optimizer):
            weights.append({name: value.detach().clone() for name, value in parameters.items()})

    handles = register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)
    try:
        trainer.fit(loader())
    finally:
        for handle in handles:
            handle.remove()
    assert rates == pytest.approx([config.lr * x for x in RATES[preset]])
    average = first
    for step, current in enumerate(weights):
        decay = min(0.5 ** (4 / 6), (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * current[name] for name in average}
    for name, value in trainer.generator.named_parameters():
        torch.testing.assert_close(value.detach(), average[name], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(mine, weights[-1][next(iter(parameters))], rtol=1e-4, atol=1e-6)


class Interrupting:
    """A validation set whose ``at``-th measurement is interrupted. A flow's reads it twice: for recognition and for ``held_out``."""

    def __init__(self, at):
        self.left = at

    def __iter__(self):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return iter([next(iter(seeded_loader(scenes(), 4, shuffle=False)))])


@pytest.mark.parametrize(("stop", "ema_images"), [(1, 8), (3, 8), (3, 0)])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, preset, stop, ema_images):
    # The third measurement of BicycleGAN comes after the checkpoint of image 12; so does the fifth reading of a flow.
    at = stop if preset == "bicyclegan" else 2 * stop - 1
    config = settings(preset, num_images=24, eval_images=8, snapshot_images=12, log_images=8, ema_images=ema_images)
    undisturbed = make(config, output=tmp_path / "a")
    results = undisturbed.fit(loader(), Interrupting(-1))
    assert [result["progress"] for result in results] == [8, 16, 24]
    stopped = make(config, output=tmp_path / "b")
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(loader(), Interrupting(at))
    assert len(list((tmp_path / "b").glob("checkpoint-*"))) == (stop == 3)
    torch.rand(3)  # whatever happens in between
    for _ in range(2):  # the second time, the run is over and does nothing
        again = make(config, output=tmp_path / "b")
        assert again.fit(loader(), Interrupting(-1)) == results
        assert same(copied(again.generator), copied(undisturbed.generator))
        assert same(copied(again.parts), copied(undisturbed.parts))
        assert statistics(tmp_path / "b") == statistics(tmp_path / "a")


@pytest.mark.parametrize("preset", PRESETS)
def test_another_seed_gives_other_weights(preset):
    # A test of the test above: its comparison can fail.
    first, second = make(settings(preset, seed=0)), make(settings(preset, seed=1))
    for trainer in (first, second):
        trainer.fit(loader())
    assert not same(copied(first.generator), copied(second.generator))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_results_are_the_recognition_score(preset):
    trainer = make(settings(preset, eval_images=8))
    pairs = [next(iter(loader()))]
    results = trainer.fit(loader(), pairs)
    assert [result["progress"] for result in results] == [8, 16]
    own = {"held_out": results[-1]["held_out"]} if preset == "flow" else {}
    assert results[-1] == {"progress": 16} | recognition(trainer.cut, trainer.generator, pairs, seed=0) | own
    assert make(settings(preset)).fit(loader()) == []


def large_pairs():
    """Validation images that are larger than the training crops."""
    return [
        (images, masks) for images, masks in seeded_loader(Scenes(4, (SIZE[0] + 6, 2 * SIZE[1]), transforms=eval_transforms()), 2, shuffle=False)
    ]


@pytest.mark.parametrize("noted", [None, (24, 40)])
def test_it_is_measured_in_windows_of_the_models_crops_or_else_of_its_own(noted):
    # A loop of the user's own leaves no note on the model.
    trainer, pairs = make(), large_pairs()
    note_size(trainer.cut.model, noted)
    (found,) = trainer.fit(loader(), pairs)
    again = recognition(trainer.cut, trainer.generator, pairs, window=noted or SIZE)
    whole = recognition(trainer.cut, trainer.generator, pairs, window=None)
    assert {name: found[name] for name in again} == again
    assert found["diversity"] != whole["diversity"]
    assert found["held_out"] == trainer.objective.held_out(trainer.generator, pairs, noted or SIZE)
    assert found["held_out"] != trainer.objective.held_out(trainer.generator, pairs)


def test_a_resumed_run_remembers_the_sizes_of_all_crops(tmp_path):
    # Crops of two sizes, of which the resumed part sees one: such images are measured whole, as in the undisturbed run.
    sizes = [SIZE, (24, 40), SIZE, SIZE]
    batches = [next(iter(seeded_loader(Scenes(4, size, transforms=eval_transforms()), 4, shuffle=False))) for size in sizes]
    (undisturbed,) = make().fit(batches, large_pairs())
    config = settings(snapshot_images=4)
    stopping = [*batches[:3], None]  # the fourth batch is an error, after three were saved
    with pytest.raises(FeatAugError):
        make(config, output=tmp_path).fit(stopping, large_pairs())
    (resumed,) = make(config, output=tmp_path).fit(batches, large_pairs())
    assert resumed == undisturbed


def test_a_model_that_takes_crops_alone_is_measured_on_larger_images():
    class OneSize(TinyModel):
        def forward(self, images):
            assert tuple(images.shape[-2:]) == SIZE
            return super().forward(images)

    torch.manual_seed(0)
    cut = split(OneSize(), at="encoder", example=torch.zeros(1, 3, *SIZE))
    trainer = GeneratorTrainer(small_generator(CLASSES, cut.spec), cut, settings(), device="cpu", progress=False)
    (found,) = trainer.fit(loader(), large_pairs())
    assert math.isfinite(found["held_out"])
